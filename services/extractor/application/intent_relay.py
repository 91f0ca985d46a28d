"""From the outbox to a peer that answers each call: leased in batches, delivered, settled."""

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Sequence
from datetime import timedelta

import structlog

from services.extractor.application.bury import bury
from services.extractor.application.deliveries import Delivered
from services.extractor.application.fact_relay import RelaySettings
from services.extractor.application.ports import UnitOfWork
from services.extractor.domain.outbox import Intent, Postponed, Rejection, Topic
from services.shared.errors import RemoteError, Unavailable
from services.shared.lifecycle import wait_for_event
from services.shared.retry import Backoff

logger = structlog.stdlib.get_logger(__name__)

_RETRY = Backoff(initial=timedelta(milliseconds=200), maximum=timedelta(seconds=30))


class IntentRelay:
    """`run` is a background loop; `wake` makes it look at the outbox at once.

    `is_final` says which answers make a dead letter; every other failure is tried again.
    """

    def __init__(
        self,
        *,
        topic: Topic,
        deliver: Callable[[Sequence[Intent]], AsyncIterator[Delivered]],
        is_final: Callable[[RemoteError], bool],
        unit_of_work: UnitOfWork,
        settings: RelaySettings,
        rng: random.Random,
    ) -> None:
        self._topic = topic
        self._deliver = deliver
        self._is_final = is_final
        self._unit_of_work = unit_of_work
        self._settings = settings
        self._rng = rng
        self._awake = asyncio.Event()

    def wake(self) -> None:
        self._awake.set()

    async def run(self, stop: asyncio.Event) -> None:
        async with asyncio.TaskGroup() as tasks:
            watcher = tasks.create_task(self._wake_when(stop), name=f"{self._topic}-relay-stop")
            while not stop.is_set():
                self._awake.clear()
                try:
                    busy = await self._relay()
                except Unavailable as error:
                    logger.warning("relay_interrupted", topic=self._topic.value, error=error.message)
                    busy = False
                if not busy:
                    await wait_for_event(self._awake, self._settings.poll.total_seconds())
            watcher.cancel()

    async def _relay(self) -> bool:
        """Sends one batch. Returns whether there may be more."""
        async with self._unit_of_work() as repositories:
            leased = await repositories.outbox.lease(
                self._topic, owner=self._settings.owner, limit=self._settings.batch_size, lease=self._settings.lease
            )
        async for intents, answers in self._deliver(leased):
            await self._settle(intents, answers)
        return len(leased) == self._settings.batch_size

    async def _settle(self, intents: Sequence[Intent], answers: Sequence[RemoteError | None]) -> None:
        done: list[Intent] = []
        postponed: list[Postponed] = []
        rejected: list[Rejection] = []
        for intent, error in zip(intents, answers, strict=True):
            if error is None:
                done.append(intent)
            elif self._is_final(error):
                rejected.append(_rejection(intent, error))
            else:
                postponed.append(self._postponed(intent, error))
        async with self._unit_of_work() as repositories:
            if done:
                await repositories.outbox.complete(self._topic, done)
            if postponed:
                await repositories.outbox.postpone(self._topic, postponed)
            if rejected:
                await bury(repositories, self._topic, rejected)
        if postponed:
            logger.warning("intents_postponed", topic=self._topic.value, count=len(postponed))

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
