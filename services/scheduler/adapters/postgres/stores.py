"""All adapters on one session, wired to each other."""

from dataclasses import dataclass
from datetime import timedelta
from typing import Self

from services.scheduler.adapters.postgres.changes import PostgresChangeLog
from services.scheduler.adapters.postgres.control import PostgresControl
from services.scheduler.adapters.postgres.controls import PostgresControls
from services.scheduler.adapters.postgres.creation import PostgresCreation
from services.scheduler.adapters.postgres.dispatch import Dispatch
from services.scheduler.adapters.postgres.leasing import PostgresLeases
from services.scheduler.adapters.postgres.reading import PostgresReading
from services.scheduler.adapters.postgres.ready import PostgresReadyJobs
from services.scheduler.adapters.postgres.schedules import PostgresSchedules
from services.scheduler.adapters.postgres.session import Session
from services.scheduler.adapters.postgres.statistics import PostgresStatistics
from services.scheduler.adapters.postgres.upkeep import PostgresUpkeep


@dataclass(frozen=True, slots=True, kw_only=True)
class Retention:
    """`span` is that of one partition of ended jobs; the others say how long ended jobs and changes are kept."""

    span: timedelta = timedelta(days=1)
    ended: timedelta = timedelta(days=7)
    changes: timedelta = timedelta(hours=1)


@dataclass(frozen=True, kw_only=True)
class Stores:
    session: Session
    creation: PostgresCreation
    leases: PostgresLeases
    control: PostgresControl
    controls: PostgresControls
    reading: PostgresReading
    ready: PostgresReadyJobs
    log: PostgresChangeLog
    statistics: PostgresStatistics
    schedules: PostgresSchedules
    upkeep: PostgresUpkeep

    @classmethod
    def on(cls, session: Session, dispatch: Dispatch, *, retention: Retention) -> Self:
        creation = PostgresCreation(session, dispatch)
        return cls(
            session=session,
            creation=creation,
            leases=PostgresLeases(session, dispatch, creation),
            control=PostgresControl(session, dispatch),
            controls=PostgresControls(session),
            reading=PostgresReading(session),
            ready=PostgresReadyJobs(session, dispatch),
            log=PostgresChangeLog(session, replica_id=dispatch.replica_id),
            statistics=PostgresStatistics(session),
            schedules=PostgresSchedules(session, creation),
            upkeep=PostgresUpkeep(
                session, span=retention.span, retention=retention.ended, change_retention=retention.changes
            ),
        )
