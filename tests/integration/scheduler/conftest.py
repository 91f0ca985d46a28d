import pytest

from tests.integration.scheduler import harness, stores
from tests.support.fixtures import MigratedDatabase


@pytest.fixture
async def scheduler_url(migrated_database: MigratedDatabase) -> str:
    """A database with the scheduler's schema, empty."""
    return await migrated_database("scheduler", harness.migrate)


@pytest.fixture
async def replica(scheduler_url):
    async with harness.replica(scheduler_url) as replica:
        yield replica


@pytest.fixture
async def scheduler(replica):
    async with harness.client(replica.address) as client:
        yield client


@pytest.fixture
async def store(scheduler_url):
    async with stores.connect(scheduler_url) as connected:
        yield connected
