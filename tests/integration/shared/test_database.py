"""Transactions and the pool, on a real PostgreSQL."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta

import asyncpg
import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError, IntegrityError

from services.shared.checks import CheckFailed
from services.shared.database.engine import Database, pool_size
from services.shared.database.failures import postgres_outage
from services.shared.database.health import database_check
from services.shared.database.unit_of_work import Transaction, UnitOfWork, transactions
from services.shared.errors import Code, OutcomeUnknown, Reason, ResourceExhausted
from services.shared.telemetry.metrics import Metrics
from tests.support.databases import cut_connections

CONCURRENCY = 2


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


@pytest.fixture
async def database(postgres_url: str, metrics: Metrics) -> AsyncIterator[Database]:
    database = Database(postgres_url, concurrency=CONCURRENCY, application_name="test", metrics=metrics, pool_wait=0.3)
    yield database
    await database.close()


@pytest.fixture
async def uow(database: Database) -> UnitOfWork[Transaction]:
    uow = transactions(database)
    async with uow() as tx:
        await tx.execute(text("CREATE TABLE items (id int PRIMARY KEY)"))
    return uow


async def add(tx: Transaction, item: int) -> None:
    await tx.execute(text("INSERT INTO items VALUES (:id)"), {"id": item})


async def stored(uow: UnitOfWork[Transaction]) -> list[int]:
    async with uow() as tx:
        return list((await tx.execute(text("SELECT id FROM items ORDER BY id"))).scalars())


def pool_metric(metrics: Metrics, name: str) -> float | None:
    return metrics.registry.get_sample_value(f"scristill_database_pool_{name}", {"pool": "test"})


async def test_block_that_ends_is_committed(uow: UnitOfWork[Transaction]):
    async with uow() as tx:
        await add(tx, 1)

    assert await stored(uow) == [1]


async def test_block_that_raises_is_rolled_back_whole(uow: UnitOfWork[Transaction]):
    async def command() -> None:
        async with uow() as tx:
            await add(tx, 1)
            raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        await command()

    assert await stored(uow) == []


async def test_cancelled_block_is_rolled_back(uow: UnitOfWork[Transaction], metrics: Metrics):
    async def work() -> None:
        async with uow() as tx:
            await add(tx, 1)
            await tx.execute(text("SELECT pg_sleep(30)"))

    task = asyncio.create_task(work())
    await asyncio.sleep(0.2)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    assert await stored(uow) == []
    assert pool_metric(metrics, "checked_out") == 0


async def test_savepoint_lets_one_item_fail_alone(uow: UnitOfWork[Transaction]):
    async with uow() as tx:
        for item in (1, 1, 2):
            try:
                async with tx.savepoint():
                    await add(tx, item)
            except IntegrityError:
                continue

    assert await stored(uow) == [1, 2]


async def test_repositories_are_built_from_the_transaction(database: Database, uow: UnitOfWork[Transaction]):
    class Items:
        def __init__(self, tx: Transaction) -> None:
            self._tx = tx

        async def add(self, item: int) -> None:
            await add(self._tx, item)

    async with UnitOfWork(database, build=Items)() as items:
        await items.add(7)

    assert await stored(uow) == [7]


async def test_driver_works_inside_the_transaction(uow: UnitOfWork[Transaction]):
    async def command() -> None:
        async with uow() as tx:
            driver = await tx.driver()
            await driver.copy_records_to_table("items", records=[(1,), (2,)], columns=["id"])
            raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        await command()

    assert await stored(uow) == []


async def test_exhausted_pool_is_counted_and_refused(uow: UnitOfWork[Transaction], metrics: Metrics):
    release = asyncio.Event()

    async def hold() -> None:
        async with uow():
            await release.wait()

    async with asyncio.TaskGroup() as tasks:
        for _ in range(pool_size(CONCURRENCY)):
            tasks.create_task(hold())
        await asyncio.sleep(0.1)
        with pytest.raises(ResourceExhausted) as caught:
            async with uow():
                pass
        in_use = pool_metric(metrics, "checked_out")
        release.set()

    assert caught.value.metadata == {"scope": "server", "limit": "4"}
    assert pool_metric(metrics, "exhausted_total") == 1
    assert pool_metric(metrics, "size") == in_use == 4
    assert pool_metric(metrics, "checked_out") == 0
    assert pool_metric(metrics, "wait_seconds_count") > 4


async def test_slow_statement_is_stopped_by_the_server(postgres_url: str, metrics: Metrics):
    database = Database(
        postgres_url,
        concurrency=1,
        application_name="test",
        metrics=metrics,
        statement_timeout=timedelta(milliseconds=50),
    )
    with pytest.raises(DBAPIError, match="statement timeout") as caught:
        async with transactions(database)() as tx:
            await tx.execute(text("SELECT pg_sleep(10)"))
    await database.close()

    assert postgres_outage(caught.value) is None


async def test_lost_connection_is_an_outage_and_the_pool_recovers(uow: UnitOfWork[Transaction], postgres_url: str):
    async def command() -> None:
        async with uow() as tx:
            await cut_connections(postgres_url)
            await add(tx, 1)

    with pytest.raises(DBAPIError) as caught:
        await command()

    outage = postgres_outage(caught.value)
    assert (outage.code, outage.reason) == (Code.UNAVAILABLE, Reason.DEPENDENCY_UNAVAILABLE)
    assert await stored(uow) == []


async def test_connection_lost_at_commit_leaves_the_outcome_unknown(uow: UnitOfWork[Transaction], postgres_url: str):
    async def command() -> None:
        async with uow() as tx:
            await add(tx, 1)
            await cut_connections(postgres_url)

    with pytest.raises(OutcomeUnknown):
        await command()


async def test_deadlock_is_transient(uow: UnitOfWork[Transaction]):
    async with uow() as tx:
        await add(tx, 1)
        await add(tx, 2)
    both = asyncio.Barrier(2)

    async def lock(first: int, second: int) -> None:
        async with uow() as tx:
            await tx.execute(text("SELECT 1 FROM items WHERE id = :id FOR UPDATE"), {"id": first})
            await both.wait()
            await tx.execute(text("SELECT 1 FROM items WHERE id = :id FOR UPDATE"), {"id": second})

    results = await asyncio.gather(lock(1, 2), lock(2, 1), return_exceptions=True)

    (loser,) = [result for result in results if result is not None]
    assert postgres_outage(loser).code is Code.UNAVAILABLE


async def test_refused_connection_is_an_outage(metrics: Metrics):
    database = Database("postgresql://nobody@127.0.0.1:1/none", concurrency=1, application_name="test", metrics=metrics)
    with pytest.raises(OSError, match=r"refused|Connect call failed") as caught:
        async with transactions(database)():
            pass
    await database.close()

    assert postgres_outage(caught.value).code is Code.UNAVAILABLE


async def test_own_mistake_is_no_outage(uow: UnitOfWork[Transaction]):
    with pytest.raises(DBAPIError) as caught:
        async with uow() as tx:
            await tx.execute(text("SELECT no_such_column"))

    assert postgres_outage(caught.value) is None


async def test_database_check_names_what_is_missing(postgres_url: str):
    await database_check(postgres_url, connections=10).run()

    with pytest.raises(CheckFailed, match="one replica alone needs 100000"):
        await database_check(postgres_url, connections=100_000).run()
    with pytest.raises(CheckFailed, match="cannot be reached"):
        await database_check("postgresql://nobody@127.0.0.1:1/none", connections=10).run()


async def test_misuse_of_a_connection_is_no_outage(uow: UnitOfWork[Transaction]):
    async with uow() as tx:
        driver = await tx.driver()
        first = asyncio.create_task(driver.execute("SELECT pg_sleep(0.2)"))
        await asyncio.sleep(0.05)
        with pytest.raises(asyncpg.InterfaceError) as caught:
            await driver.execute("SELECT 1")
        await first

    assert postgres_outage(caught.value) is None
