"""From the outbox to the scheduler: jobs to create, and jobs to cancel whose source is gone."""

import asyncio
import random
from collections.abc import Sequence
from datetime import timedelta
from itertools import groupby

import structlog

from services.extractor.application.bury import bury
from services.extractor.application.fact_relay import RelaySettings
from services.extractor.application.ports import Scheduler, UnitOfWork
from services.extractor.domain.outbox import Intent, Operation, Postponed, Rejection, Topic
from services.extractor.domain.peers import is_final
from services.shared.errors import RemoteError, Unavailable
from services.shared.lifecycle import wait_for_event
from services.shared.retry import Backoff

logger = structlog.stdlib.get_logger(__name__)

_RETRY = Backoff(initial=timedelta(milliseconds=200), maximum=timedelta(seconds=30))


class JobRelay:
    """`run` is a background loop; `wake` makes it look at the outbox at once."""

    def __init__(
        self, *, unit_of_work: UnitOfWork, scheduler: Scheduler, settings: RelaySettings, rng: random.Random
    ) -> None:
        self._unit_of_work = unit_of_work
        self._scheduler = scheduler
        self._settings = settings
        self._rng = rng
        self._awake = asyncio.Event()

    def wake(self) -> None:
        self._awake.set()

    async def run(self, stop: asyncio.Event) -> None:
        async with asyncio.TaskGroup() as tasks:
            watcher = tasks.create_task(self._wake_when(stop), name="job-relay-stop")
            while not stop.is_set():
                self._awake.clear()
                try:
                    busy = await self._relay()
                except Unavailable as error:
                    logger.warning("relay_interrupted", topic=Topic.JOB.value, error=error.message)
                    busy = False
                if not busy:
                    await wait_for_event(self._awake, self._settings.poll.total_seconds())
            watcher.cancel()

    async def _relay(self) -> bool:
        """Sends one batch. Returns whether there may be more."""
        async with self._unit_of_work() as repositories:
            leased = await repositories.outbox.lease_jobs(
                owner=self._settings.owner, limit=self._settings.batch_size, lease=self._settings.lease
            )
        creations = [intent for intent in leased if intent.operation is Operation.UPSERT]
        # One call per trace, so that each job is linked to the call that asked for it.
        for _, group in groupby(sorted(creations, key=_trace), key=_trace):
            await self._create(list(group))
        for intent in leased:
            if intent.operation is Operation.DELETE:
                await self._cancel(intent)
        return len(leased) == self._settings.batch_size

    async def _create(self, intents: Sequence[Intent]) -> None:
        try:
            answers = await self._scheduler.create_jobs(intents)
        except RemoteError as error:
            answers = [error] * len(intents)
        await self._settle(intents, answers)

    async def _cancel(self, intent: Intent) -> None:
        try:
            await self._scheduler.cancel_job(intent)
        except RemoteError as error:
            await self._settle([intent], [error])
        else:
            await self._settle([intent], [None])

    async def _settle(self, intents: Sequence[Intent], answers: Sequence[RemoteError | None]) -> None:
        """A refusal for good is a dead letter; every other failure is tried again."""
        done: list[Intent] = []
        postponed: list[Postponed] = []
        rejected: list[Rejection] = []
        for intent, error in zip(intents, answers, strict=True):
            if error is None:
                done.append(intent)
            elif is_final(error):
                rejected.append(_rejection(intent, error))
            else:
                postponed.append(self._postponed(intent, error))
        async with self._unit_of_work() as repositories:
            if done:
                await repositories.outbox.complete_jobs(done)
            if postponed:
                await repositories.outbox.postpone(Topic.JOB, postponed)
            if rejected:
                await bury(repositories, Topic.JOB, rejected)
        if postponed:
            logger.warning("jobs_postponed", count=len(postponed))

    def _postponed(self, intent: Intent, error: RemoteError) -> Postponed:
        delay = _RETRY.delay(intent.attempts, rng=self._rng)
        return Postponed(
            key=intent.key,
            version=intent.version,
            lease_token=intent.lease_token,
            delay=max(delay, error.retry_delay or timedelta()),
        )

    async def _wake_when(self, stop: asyncio.Event) -> None:
        await stop.wait()
        self._awake.set()


def _trace(intent: Intent) -> str:
    return intent.traceparent


def _rejection(intent: Intent, error: RemoteError) -> Rejection:
    return Rejection(
        key=intent.key,
        version=intent.version,
        lease_token=intent.lease_token,
        reason=error.reason,
        message=error.message,
        context={
            "operation": intent.operation.name,
            "source_id": str(intent.source_id),
            "source_version": intent.version,
            "attempts": intent.attempts,
            "traceparent": intent.traceparent,
            "metadata": error.metadata,
        },
    )
