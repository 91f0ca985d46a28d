"""Which exceptions of the database say that it is away, rather than that we are wrong."""

import asyncpg
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError

from services.shared.errors import ServiceError, Unavailable

# Rolled back by the server without fault of the statement: the command may run again.
_RETRYABLE_STATES = frozenset({"40001", "40P01", "55P03"})
# Connection exceptions, operator intervention, insufficient resources; and a server that takes no writes, because it
# is a standby or still in recovery: another connection may lead to the one that does.
_OUTAGE_CLASSES = ("08", "53", "57P", "25006")


def postgres_outage(error: BaseException) -> ServiceError | None:
    """UNAVAILABLE for outages and for transactions that the server gave up; None for the rest."""
    if is_connection_lost(error) or _sqlstate(error) in _RETRYABLE_STATES:
        return Unavailable.of("postgresql")
    return None


def is_connection_lost(error: BaseException) -> bool:
    if isinstance(error, DBAPIError) and error.connection_invalidated:
        return True
    if _sqlstate(error).startswith(_OUTAGE_CLASSES):
        return True
    origin = error.orig if isinstance(error, InterfaceError | OperationalError) else error
    cause = getattr(origin, "__cause__", None) or origin
    if isinstance(cause, asyncpg.InternalClientError):
        # The server has said good-bye on an idle connection, and the socket has not been closed yet.
        return "cannot switch to state" in str(cause)
    if isinstance(cause, asyncpg.InterfaceError):
        # The driver's class for misuse as well, which is our fault.
        return "closed" in str(cause)
    return isinstance(cause, asyncpg.PostgresConnectionError | ConnectionError)


def _sqlstate(error: BaseException) -> str:
    origin = error.orig if isinstance(error, DBAPIError) else error
    return str(getattr(origin, "sqlstate", None) or "")
