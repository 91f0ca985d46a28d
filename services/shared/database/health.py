"""Checks of the database for `--check`."""

import asyncio

from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

from services.shared.checks import Check, CheckFailed
from services.shared.database.engine import async_url

_LIMITS = text(
    "SELECT current_setting('server_version_num')::int AS version, current_setting('max_connections')::int AS allowed"
)
_TIMEOUT = 5.0
_OLDEST_SERVER = 150000
_RESERVED_CONNECTIONS = 5


def database_check(url: str, *, connections: int) -> Check:
    """Reachable, new enough, and allows `connections` (all workers of one replica) at least."""

    async def run() -> None:
        engine = create_async_engine(async_url(url), poolclass=NullPool, connect_args={"timeout": _TIMEOUT})
        try:
            async with asyncio.timeout(_TIMEOUT), engine.connect() as connection:
                row = (await connection.execute(_LIMITS)).one()
        except (OSError, TimeoutError, SQLAlchemyError) as error:
            raise CheckFailed(f"cannot be reached: {type(error).__name__}") from error
        finally:
            await engine.dispose()
        _judge(version=row.version, allowed=row.allowed, needed=connections)

    return Check(name="postgresql", run=run)


def _judge(*, version: int, allowed: int, needed: int) -> None:
    if version < _OLDEST_SERVER:
        raise CheckFailed(f"server version {version // 10000} is older than {_OLDEST_SERVER // 10000}")
    if allowed < needed + _RESERVED_CONNECTIONS:
        raise CheckFailed(f"max_connections is {allowed}, one replica alone needs {needed}")
