"""What of the driver's errors says that PostgreSQL is away."""

import asyncpg
import pytest
from sqlalchemy.dialects.postgresql.asyncpg import AsyncAdapt_asyncpg_dbapi
from sqlalchemy.exc import DBAPIError

from services.shared.database.failures import postgres_outage
from services.shared.errors import Code

SHUTTING_DOWN = asyncpg.CannotConnectNowError("the database system is shutting down")
GOOD_BYE_ON_AN_IDLE_CONNECTION = asyncpg.InternalClientError(
    "cannot switch to state 12; another operation (2) is in progress"
)
STANDBY = asyncpg.ReadOnlySQLTransactionError("cannot execute UPDATE in a read-only transaction")
DRIVER_BUG = asyncpg.InternalClientError("unexpected message type")


@pytest.mark.parametrize(
    "error",
    [
        SHUTTING_DOWN,
        DBAPIError(None, None, AsyncAdapt_asyncpg_dbapi.Error("away", SHUTTING_DOWN)),
        GOOD_BYE_ON_AN_IDLE_CONNECTION,
        STANDBY,
        ConnectionResetError(),
    ],
)
def test_a_server_that_goes_is_an_outage(error: Exception) -> None:
    outage = postgres_outage(error)

    assert outage is not None
    assert outage.code is Code.UNAVAILABLE


@pytest.mark.parametrize("error", [DRIVER_BUG, asyncpg.UniqueViolationError("twice"), ValueError()])
def test_what_is_our_own_fault_is_none(error: Exception) -> None:
    assert postgres_outage(error) is None
