"""The loops of a replica: what must happen although nobody calls.

Each may run at any number of replicas at once; the store lets one of them win per job.
"""

import asyncio
from datetime import timedelta

import structlog

from services.scheduler.application.dispatcher import Dispatcher
from services.scheduler.application.ports import RAN_OUT, ChangeLog, Controls, JobLeases, ReadyJobs, Schedules, Upkeep
from services.scheduler.application.rounds import rounds
from services.scheduler.application.signals import Signals
from services.scheduler.application.telemetry import SchedulerMetrics
from services.scheduler.domain.job import JobState

logger = structlog.stdlib.get_logger(__name__)

_BATCH = 500


class Sweeper:
    """Takes jobs back whose lease ran out. Sleeps until the earliest lease can end."""

    def __init__(
        self,
        *,
        leases: JobLeases,
        dispatcher: Dispatcher,
        signals: Signals,
        metrics: SchedulerMetrics,
        longest_sleep: timedelta,
    ) -> None:
        self._leases = leases
        self._dispatcher = dispatcher
        self._signals = signals
        self._metrics = metrics
        self._longest_sleep = longest_sleep.total_seconds()

    async def run(self, stop: asyncio.Event) -> None:
        await rounds(self.sweep, name="sweep", stop=stop, wake=self._signals.expiring)

    async def sweep(self) -> float:
        """Expires every lease that has run out. Returns the seconds until the next one may."""
        expired = await self._leases.expire(limit=_BATCH)
        if expired.stalled:
            logger.warning("leases_expired", jobs=len(expired.stalled), types=sorted(set(expired.stalled)))
            self._metrics.count_expired(expired.stalled)
            self._signals.count_ended(expired.settlement.ended)
            self._dispatcher.expired(expired.settlement)
            self._signals.changed.set()
        if len(expired.stalled) >= _BATCH:
            return 0.0
        if expired.next_expire_time is None:
            return self._longest_sleep
        return min(max((expired.next_expire_time - expired.now).total_seconds(), 0.01), self._longest_sleep)


class Promoter:
    """Makes delayed jobs ready when their time has come."""

    def __init__(self, *, ready: ReadyJobs, dispatcher: Dispatcher, signals: Signals) -> None:
        self._ready = ready
        self._dispatcher = dispatcher
        self._signals = signals

    async def run(self, stop: asyncio.Event) -> None:
        await rounds(self.promote, name="promotion", stop=stop, wake=self._signals.delayed)

    async def promote(self) -> float:
        """Returns the seconds until the next job may be due."""
        entries, wait = await self._ready.promote_due(limit=_BATCH)
        self._dispatcher.offer(entries)
        if len(entries) >= _BATCH:
            return 0.0
        return min(max(wait.total_seconds(), 0.002), 1.0) if wait is not None else 1.0


class ForeignChanges:
    """Learns from the change log what other replicas did to jobs that matter here."""

    def __init__(
        self, *, log: ChangeLog, leases: JobLeases, ready: ReadyJobs, dispatcher: Dispatcher, interval: timedelta
    ) -> None:
        self._log = log
        self._leases = leases
        self._ready = ready
        self._dispatcher = dispatcher
        self._interval = interval.total_seconds()
        self._position: int | None = None

    async def run(self, stop: asyncio.Event) -> None:
        await rounds(self.follow, name="foreign changes", stop=stop)

    async def follow(self) -> float:
        if self._position is None:
            self._position = await self._log.position()
            self._dispatcher.follow()
        full = True
        while full:
            changes = await self._log.read(self._position, limit=_BATCH, foreign_only=True)
            over, ran_out, ready = set[str](), set[str](), set[str]()
            for change in changes.changes:
                for job_id, state in zip(change.job_ids, change.states, strict=True):
                    if state != JobState.RUNNING:
                        over.add(job_id)
                    if state == RAN_OUT:
                        ran_out.add(job_id)
                    elif state <= JobState.PENDING:
                        ready.add(job_id)
                    else:
                        ready.discard(job_id)
            await self._take_back(over, ran_out=ran_out)
            await self._offer(ready)
            self._position, full = changes.next_position, changes.full
        return self._interval

    async def _take_back(self, job_ids: set[str], *, ran_out: set[str]) -> None:
        """Leases that ended elsewhere. A job may have been leased here since, so that the store is asked which hold."""
        doubtful = self._dispatcher.held(job_ids)
        if not doubtful:
            return
        holding = set(await self._leases.still_held(doubtful))
        over = [lease for lease in doubtful if lease not in holding]
        self._dispatcher.ran_out([lease for lease in over if lease.job_id in ran_out])
        self._dispatcher.returned(over)

    async def _offer(self, ready: set[str]) -> None:
        """Jobs of another replica are fetched for workers that wait; others find them by a rescan."""
        if not ready:
            return
        if self._dispatcher.is_hungry():
            self._dispatcher.offer(await self._ready.still_ready(list(ready)))
        else:
            self._dispatcher.note_missed()


class Steerer:
    """Keeps what operators set in memory, and looks for ready jobs that every event missed."""

    def __init__(
        self, *, controls: Controls, dispatcher: Dispatcher, interval: timedelta, rescan_interval: timedelta
    ) -> None:
        self._controls = controls
        self._dispatcher = dispatcher
        self._interval = interval.total_seconds()
        self._rounds_per_rescan = max(1, round(rescan_interval / interval))
        self._round = 0

    async def run(self, stop: asyncio.Event) -> None:
        await rounds(self.refresh, name="steering", stop=stop)

    async def refresh(self) -> float:
        steering = await self._controls.steering()
        self._dispatcher.steer(paused=steering.paused_types, weights=steering.weights)
        self._round += 1
        if self._round % self._rounds_per_rescan == 0:
            self._dispatcher.rescan()
        return self._interval


class Firer:
    """Creates the jobs of periodic schedules."""

    def __init__(self, *, schedules: Schedules, dispatcher: Dispatcher, signals: Signals, interval: timedelta) -> None:
        self._schedules = schedules
        self._dispatcher = dispatcher
        self._signals = signals
        self._interval = interval.total_seconds()

    async def run(self, stop: asyncio.Event) -> None:
        await rounds(self.fire, name="schedules", stop=stop)

    async def fire(self) -> float:
        ready = await self._schedules.fire()
        if ready:
            self._dispatcher.offer(ready)
            self._signals.changed.set()
        return self._interval


class Housekeeper:
    """Makes partitions ahead of time, drops those past retention, trims the change log."""

    def __init__(self, *, upkeep: Upkeep, interval: timedelta) -> None:
        self._upkeep = upkeep
        self._interval = interval.total_seconds()

    async def run(self, stop: asyncio.Event) -> None:
        await rounds(self.tidy, name="housekeeping", stop=stop)

    async def tidy(self) -> float:
        await self._upkeep.prepare_partitions()
        dropped = await self._upkeep.drop_old_partitions()
        if dropped:
            logger.info("partitions_dropped", partitions=dropped)
        await self._upkeep.trim_changes()
        return self._interval
