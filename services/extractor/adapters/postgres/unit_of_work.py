"""All repositories of one transaction. Outages of the database leave here as errors of the suite."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from sqlalchemy.exc import DBAPIError

from services.extractor.adapters.postgres.extractions import PostgresExtractions
from services.extractor.adapters.postgres.facts import PostgresFacts
from services.extractor.adapters.postgres.markers import PostgresMarkers
from services.extractor.adapters.postgres.outbox import PostgresOutbox
from services.extractor.adapters.postgres.projects import PostgresProjects
from services.extractor.adapters.postgres.reconciliations import PostgresReconciliations
from services.extractor.adapters.postgres.sources import PostgresSources
from services.extractor.adapters.postgres.versions import PostgresVersions
from services.extractor.adapters.postgres.witnesses import PostgresWitnesses
from services.extractor.application.ports import Repositories, StatementRefused
from services.shared.database.engine import Database
from services.shared.database.failures import postgres_outage
from services.shared.database.unit_of_work import Transaction, UnitOfWork
from services.shared.errors import Unavailable


class ExtractorUnitOfWork:
    """A factory: call it once per command."""

    def __init__(self, database: Database) -> None:
        self._transactions = UnitOfWork(database, build=_repositories)

    @asynccontextmanager
    async def __call__(self) -> AsyncGenerator[Repositories]:
        """Raises `Unavailable` when the database is away or gave the transaction up."""
        try:
            async with self._transactions() as repositories:
                yield repositories
        except DBAPIError as error:
            known = postgres_outage(error)
            if known is None:
                raise
            raise known from error
        except OSError as error:
            raise Unavailable.of("postgresql") from error


def _repositories(transaction: Transaction) -> Repositories:
    @asynccontextmanager
    async def savepoint() -> AsyncGenerator[None]:
        try:
            async with transaction.savepoint():
                yield
        except DBAPIError as error:
            if postgres_outage(error) is not None:
                raise
            raise StatementRefused from error

    return Repositories(
        projects=PostgresProjects(transaction),
        sources=PostgresSources(transaction),
        versions=PostgresVersions(transaction),
        facts=PostgresFacts(transaction),
        extractions=PostgresExtractions(transaction),
        outbox=PostgresOutbox(transaction),
        markers=PostgresMarkers(transaction),
        witnesses=PostgresWitnesses(transaction),
        reconciliations=PostgresReconciliations(transaction),
        savepoint=savepoint,
    )
