"""Fixtures for tests on real engines; registered by tests/conftest.py. A test that asks for none starts none."""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack

import pytest
import redis.asyncio

from tests.support.databases import Databases, Migrate
from tests.support.engines import Engines

MigratedDatabase = Callable[[str, Migrate], Awaitable[str]]


@pytest.fixture(scope="session")
def engines() -> Iterator[Engines]:
    with Engines() as engines:
        yield engines


@pytest.fixture(scope="session")
async def databases(engines: Engines) -> AsyncIterator[Databases]:
    databases = await engines.databases()
    yield databases
    await databases.close()


@pytest.fixture
async def postgres_url(databases: Databases) -> AsyncIterator[str]:
    """`postgresql://…` of an empty database that lives as long as the test."""
    async with databases.fresh() as url:
        yield url


@pytest.fixture
async def migrated_database(databases: Databases) -> AsyncIterator[MigratedDatabase]:
    """`await migrated_database(purpose, migrate)`: the URL of a copy of what `migrate(url)` makes once per session."""
    async with AsyncExitStack() as stack:

        async def create(purpose: str, migrate: Migrate) -> str:
            template = await databases.template(purpose, migrate)
            return await stack.enter_async_context(databases.fresh(template=template))

        yield create


@pytest.fixture
async def valkey_url(engines: Engines) -> str:
    """`redis://…` of an empty database."""
    url = await engines.valkey_url()
    async with redis.asyncio.from_url(url) as client:
        await client.flushdb()
    return url


@pytest.fixture(scope="session")
async def qdrant_url(engines: Engines) -> str:
    """`http://…` of Qdrant's gRPC port, shared by the session: tests use collection names of their own."""
    return await engines.qdrant_url()
