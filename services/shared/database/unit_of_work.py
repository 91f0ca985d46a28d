"""One transaction per command.

`async with uow() as tx:` takes a connection, begins, commits when the block ends and
rolls back when it raises. A factory makes a fresh one for every command; nothing is
shared between two commands. Repositories are built from the transaction:

    uow = UnitOfWork(database, build=lambda tx: Repositories(jobs=PostgresJobs(tx)))
    async with uow() as repositories: ...

so that the application sees a `Callable[[], AbstractAsyncContextManager[Repositories]]`.
"""

from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, Generic, TypeVar, cast

import asyncpg
from sqlalchemy import CursorResult, Executable
from sqlalchemy.ext.asyncio import AsyncConnection

from services.shared.database.engine import Database
from services.shared.database.failures import is_connection_lost
from services.shared.errors import OutcomeUnknown

T = TypeVar("T")


class Transaction:
    """An open transaction. It is not for use by two tasks at once."""

    def __init__(self, connection: AsyncConnection) -> None:
        self.connection = connection

    async def execute(self, statement: Executable, parameters: Any = None) -> CursorResult[Any]:
        return await self.connection.execute(statement, parameters)

    def savepoint(self) -> AbstractAsyncContextManager[Any]:
        """A part that may fail alone: rolls back to here when the block raises, and lets the error through."""
        return self.connection.begin_nested()

    async def driver(self) -> asyncpg.Connection:
        """The asyncpg connection of this transaction, for COPY and hot statements."""
        raw = await self.connection.get_raw_connection()
        # SQLAlchemy sends BEGIN with its first statement, which may be still to come.
        adapted = cast("Any", raw.dbapi_connection)
        if adapted._transaction is None:  # noqa: SLF001
            await adapted._start_transaction()  # noqa: SLF001
        return cast("asyncpg.Connection", raw.driver_connection)


class UnitOfWork(Generic[T]):
    """Factory of transactions; call it once per command."""

    def __init__(self, database: Database, *, build: Callable[[Transaction], T]) -> None:
        self._database = database
        self._build = build

    @asynccontextmanager
    async def __call__(self) -> AsyncGenerator[T]:
        async with self._database.connect() as connection:
            transaction = await connection.begin()
            try:
                yield self._build(Transaction(connection))
            except BaseException:
                await transaction.rollback()
                raise
            try:
                await transaction.commit()
            except Exception as error:
                # The server may have committed before the connection broke.
                if is_connection_lost(error):
                    raise OutcomeUnknown.of("postgresql") from error
                raise


def transactions(database: Database) -> UnitOfWork[Transaction]:
    """The plain factory, for code that needs no repositories."""
    return UnitOfWork(database, build=lambda transaction: transaction)
