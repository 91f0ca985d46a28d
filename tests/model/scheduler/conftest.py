from collections.abc import AsyncIterator

import pytest

from services.shared.database.migrations import Migrations, upgrade
from tests.model.scheduler.pair import POLICIES
from tests.model.scheduler.store import Store, open_store
from tests.support.databases import Databases
from tests.support.fixtures import MigratedDatabase


async def migrate(url: str) -> None:
    await upgrade(Migrations(package="services.scheduler.migrations", schema="scheduler", url=url))


@pytest.fixture
async def scheduler_url(migrated_database: MigratedDatabase) -> str:
    """A database with the scheduler's schema, empty."""
    return await migrated_database("scheduler", migrate)


@pytest.fixture(scope="module")
async def store(databases: Databases) -> AsyncIterator[Store]:
    """Adapters on one database for all tests of a module; a `Pair` empties it at its start."""
    template = await databases.template("scheduler", migrate)
    async with databases.fresh(template=template) as url, open_store(url, POLICIES) as store:
        yield store
