"""The PostgreSQL adapters alone, without server and loops, and jobs made for them."""

import uuid
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from datetime import timedelta

from services.scheduler.adapters.postgres.dispatch import Dispatch
from services.scheduler.adapters.postgres.session import Connection, Session
from services.scheduler.adapters.postgres.stores import Retention, Stores
from services.scheduler.application.ports import Assignment
from services.scheduler.domain.job import Job, JobSpec, LeasedJob
from services.scheduler.domain.policy import Policies, TypePolicy
from services.scheduler.domain.ready_index import Entry
from services.shared.database.engine import Database
from services.shared.ids import Uuid7
from services.shared.telemetry.metrics import Metrics

POLICY = TypePolicy(max_attempts=2, max_stalls=2, backoff_base=timedelta(milliseconds=1))

_new_id = Uuid7()


class CountingSession(Session):
    """Counts the statements that are sent, apart from those that begin and end transactions."""

    statements = 0

    @asynccontextmanager
    async def connect(self):
        async with super().connect() as connection:
            yield Counted(self, connection)


class Counted:
    def __init__(self, session: CountingSession, connection: Connection) -> None:
        self._session = session
        self._connection = connection

    def __getattr__(self, name: str):
        if name in ("fetch", "fetchrow", "fetchval", "execute"):
            self._session.statements += 1
        return getattr(self._connection, name)


class StoresAndJobs(Stores):
    async def execute(self, statement: str, *arguments: object) -> list:
        return await self.session.fetch(statement, *arguments)

    async def job(self, job_id: str) -> Job:
        [job] = await self.reading.get([job_id])
        return job

    async def lease(self, *entries: Entry, worker_id: str = "w") -> list[LeasedJob]:
        assignments = [Assignment(entry=entry, worker_id=worker_id, total_deadline=None) for entry in entries]
        return list((await self.leases.claim(assignments, accept_timeout=timedelta(seconds=30))).leased)

    async def leased(self, **fields) -> LeasedJob:
        created = await self.creation.create([spec(**fields)], parent=None)
        [job] = await self.lease(*created.ready)
        return job


def spec(**fields) -> JobSpec:
    return JobSpec(
        **{
            "job_id": str(_new_id()),
            "chosen": False,
            "type": "extract",
            "project_id": "p",
            "priority": 5,
            "payload": "{}",
            "schedule_time": None,
            "limit_key": "",
            "max_attempts": 0,
            "traceparent": "",
            **fields,
        }
    )


@asynccontextmanager
async def connect(url: str) -> AsyncGenerator[StoresAndJobs]:
    metrics = Metrics()
    database = Database(url, concurrency=4, application_name="test", metrics=metrics)
    session = CountingSession(database, concurrency=4, patience=timedelta(seconds=5), metrics=metrics)
    policies = Policies(by_type={"other": POLICY}, default=POLICY)
    dispatch = Dispatch(replica_id=uuid.uuid4(), policies=policies, ageing=timedelta(minutes=5))
    try:
        yield StoresAndJobs.on(session, dispatch, retention=Retention())
    finally:
        await session.close()
        await database.close()
