"""Alembic without its command line: each service migrates its own schema, at start of a deploy.

A service's `migrations/` package holds `versions/*.py` and nothing else. The version
table lives in the service's schema. Replicas may migrate at once: an advisory lock lets
one of them work and the others find nothing left to do.
"""

from importlib.resources import files
from pathlib import Path
from typing import Any

from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.runtime.environment import EnvironmentContext
from alembic.script import ScriptDirectory
from alembic.script.revision import ResolutionError
from alembic.util import CommandError
from sqlalchemy import Connection, text
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import NullPool

from services.shared.checks import Check, CheckFailed
from services.shared.database.engine import async_url
from services.shared.service import Migrations

# DDL that waits longer than this for a lock would stall the traffic queued behind it.
_LOCK_TIMEOUT = "10s"


async def upgrade(migrations: Migrations) -> list[str]:
    """Brings the schema to the newest revision; returns what was applied, oldest first."""
    engine = _engine(migrations)
    key = {"key": f"scristill.migrations.{migrations.schema}"}
    try:
        async with engine.connect() as connection:
            # Held by the session, so it outlives the transactions of the migrations.
            await connection.execute(text("SELECT pg_advisory_lock(hashtextextended(:key, 0))"), key)
            await connection.commit()
            return await connection.run_sync(_upgrade, migrations)
    finally:
        await engine.dispose()


async def pending(migrations: Migrations) -> list[str]:
    """Revisions that the database lacks, oldest first; empty when it is newer than this code."""
    engine = _engine(migrations)
    try:
        async with engine.connect() as connection:
            return await connection.run_sync(_pending, migrations)
    finally:
        await engine.dispose()


def migrations_check(migrations: Migrations) -> Check:
    async def run() -> None:
        missing = await pending(migrations)
        if missing:
            raise CheckFailed(f"schema {migrations.schema} lacks {', '.join(missing)}; run migrate")

    return Check(name=f"migrations {migrations.schema}", run=run)


def _engine(migrations: Migrations) -> AsyncEngine:
    return create_async_engine(async_url(migrations.url), poolclass=NullPool)


def _upgrade(connection: Connection, migrations: Migrations) -> list[str]:
    missing = _pending(connection, migrations)
    if not missing:
        return []
    connection.execute(text(f'CREATE SCHEMA IF NOT EXISTS "{migrations.schema}"'))
    connection.execute(text(f"SET lock_timeout = '{_LOCK_TIMEOUT}'"))
    connection.commit()
    config, script = _script(migrations)

    def steps(revision: Any, _context: MigrationContext) -> Any:
        return script._upgrade_revs("heads", revision)  # noqa: SLF001  # pyright: ignore[reportPrivateUsage] - as alembic.command.upgrade does

    with EnvironmentContext(config, script, fn=steps) as environment:
        environment.configure(
            connection=connection, version_table_schema=migrations.schema, transaction_per_migration=True
        )
        with environment.begin_transaction():
            environment.run_migrations()
    connection.commit()
    return missing


def _pending(connection: Connection, migrations: Migrations) -> list[str]:
    _, script = _script(migrations)
    context = MigrationContext.configure(connection, opts={"version_table_schema": migrations.schema})
    applied = context.get_current_heads()
    connection.rollback()
    try:
        missing = [step.revision for step in script.iterate_revisions("heads", applied or "base")]
    except (CommandError, ResolutionError):
        # A newer release has migrated already; this one must be able to run beside it.
        return []
    return missing[::-1]


def _script(migrations: Migrations) -> tuple[Config, ScriptDirectory]:
    config = Config()
    config.set_main_option("script_location", str(Path(str(files(migrations.package)))).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    return config, ScriptDirectory.from_config(config)
