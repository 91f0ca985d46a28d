import pytest

from services.shared.database.migrations import Migrations, upgrade
from tests.support.fixtures import MigratedDatabase


async def migrate(url: str) -> None:
    await upgrade(Migrations(package="services.scheduler.migrations", schema="scheduler", url=url))


@pytest.fixture
async def scheduler_url(migrated_database: MigratedDatabase) -> str:
    """A database with the scheduler's schema, empty."""
    return await migrated_database("scheduler", migrate)
