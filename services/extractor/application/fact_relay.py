"""From the outbox to the index: intents out, acknowledgements in, both at once on one stream.

The relay leases batches and sends them without waiting for the batches before, up to the
number of intents that the indexer accepts in flight. Every acknowledgement is applied to
the version that it names. When the stream breaks, the outcome of what is under way is
not known: its leases are given back and it is sent again, which changes nothing where it
had arrived.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from uuid import UUID

import structlog

from services.extractor.application.ports import Facts, Indexer, IndexSession, UnitOfWork
from services.extractor.application.settle import SettleFacts
from services.extractor.domain.outbox import (
    Acknowledgement,
    FactIntent,
    Intent,
    Outcome,
    Postponed,
    Topic,
    statement_hash,
)
from services.extractor.domain.recovery import Recovery
from services.shared.errors import RemoteError, Unavailable
from services.shared.lifecycle import wait_for_event
from services.shared.retry import Backoff
from services.shared.telemetry.metrics import Metrics

logger = structlog.stdlib.get_logger(__name__)

_RECONNECT = Backoff(initial=timedelta(milliseconds=200), maximum=timedelta(seconds=5))
_FINISH_SECONDS = 5.0
_HELD_UP = timedelta(seconds=1)
_MARKER_LOOK = timedelta(milliseconds=25)
# For so long one look at the index serves all markers. An index that goes back in time is away for longer.
_TRUST_SECONDS = 0.5
# More than is answered together, so that they never run out before all are due.
_PULLED_TOGETHER = 2000


@dataclass(frozen=True, slots=True, kw_only=True)
class RelaySettings:
    """`owner` names this process in the leases; with `send_vectors` intents carry the vectors that are kept.

    After a doubt about the index no marker is sent until a comparison has ended that began `settle` later.
    """

    owner: str
    batch_size: int = 500
    max_in_flight: int = 4000
    lease: timedelta = timedelta(minutes=1)
    poll: timedelta = timedelta(seconds=1)
    send_vectors: bool = True
    settle: timedelta = timedelta(minutes=1)


@dataclass(slots=True, kw_only=True)
class _Flight:
    """What was sent on one stream and is not settled.

    An acknowledgement names a fact and a version, so that of these only one statement may be under way: a restored
    database may issue a version again for another one.
    """

    limit: int
    sent: dict[UUID, FactIntent] = field(default_factory=dict[UUID, FactIntent])
    settling: dict[UUID, FactIntent] = field(default_factory=dict[UUID, FactIntent])
    """Acknowledged, but not yet recorded."""
    closing: bool = False
    markers_behind: bool = False
    """Somebody waits for facts to be acknowledged, perhaps to another relay."""
    waits_for_room: bool = False
    """Nothing is leased until there is room for a batch worth its statement."""

    @property
    def size(self) -> int:
        return len(self.sent) + len(self.settling)

    @property
    def room(self) -> int:
        return self.limit - self.size

    def take(self, acknowledgements: Sequence[Acknowledgement]) -> list[Acknowledgement]:
        """Those that are about what is in flight, to be settled; the others answer what was given up before."""
        taken: list[Acknowledgement] = []
        for each in acknowledgements:
            sent = self.sent.get(each.fact_id)
            if sent is not None and sent.intent.version == each.version:
                self.settling[each.fact_id] = self.sent.pop(each.fact_id)
                taken.append(each)
        return taken

    def add(self, leased: Sequence[FactIntent]) -> tuple[list[FactIntent], list[Intent]]:
        """Notes what was leased: what is to be sent, and what must wait for the answer to something else.

        What is in flight already, leased again because it took long, is not sent again.
        """
        fresh: list[FactIntent] = []
        waiting: list[Intent] = []
        for each in leased:
            known = self.sent.get(each.intent.key)
            if known is None or known.intent.version < each.intent.version:
                fresh.append(each)
            elif not _same(known, each):
                waiting.append(each.intent)
                continue
            self.sent[each.intent.key] = each
        return fresh, waiting


class FactRelay:
    """`run` is a background loop; `wake` makes it look at the outbox at once.

    `watch` says whether the index still holds what it acknowledged, before a marker is sent that speaks for it.
    """

    def __init__(
        self,
        *,
        unit_of_work: UnitOfWork,
        indexer: Indexer,
        settle: SettleFacts,
        watch: Callable[[], Awaitable[bool]],
        settings: RelaySettings,
        rng: random.Random,
        metrics: Metrics,
    ) -> None:
        self._unit_of_work = unit_of_work
        self._indexer = indexer
        self._settle = settle
        self._watch = watch
        self._trusted_until = 0.0
        self._recovery = Recovery()
        self._settings = settings
        self._rng = rng
        self._awake = asyncio.Event()
        self._in_flight = metrics.gauge(
            "scristill_extractor_relay_in_flight", "Intents sent to the indexer and not acknowledged."
        )
        self._outcomes = metrics.counter(
            "scristill_extractor_acknowledgements_total", "Answers of the indexer to intents.", labels=("outcome",)
        )

    def wake(self) -> None:
        self._awake.set()

    async def run(self, stop: asyncio.Event) -> None:
        failures = 0
        while not stop.is_set():
            try:
                async with self._indexer.session() as session:
                    failures = 0
                    await self._relay(session, stop)
            except* (RemoteError, Unavailable) as errors:
                failures += 1
                logger.warning("relay_interrupted", topic=Topic.FACT.value, error=str(errors.exceptions[0]))
            self._trusted_until = 0.0
            if failures:
                self._recovery.interrupted()
                await wait_for_event(stop, _RECONNECT.delay(failures, rng=self._rng).total_seconds())

    async def _relay(self, session: IndexSession, stop: asyncio.Event) -> None:
        flight = _Flight(limit=min(self._settings.max_in_flight, session.max_in_flight))
        try:
            async with asyncio.TaskGroup() as tasks:
                reader = tasks.create_task(self._read(session, flight), name="relay-read")
                watcher = tasks.create_task(self._close_when(stop, flight), name="relay-stop")
                await self._send(session, flight)
                await session.finish()
                # Long enough for what is in flight when all is well; what is not acknowledged is sent again.
                await asyncio.wait({reader}, timeout=_FINISH_SECONDS)
                reader.cancel()
                watcher.cancel()
        finally:
            await self._give_back(flight)

    async def _send(self, session: IndexSession, flight: _Flight) -> None:
        """Keeps the stream filled until the process stops or the server wants no more."""
        while not flight.closing:
            self._awake.clear()
            flight.waits_for_room = flight.room < min(self._settings.batch_size, max(1, flight.limit // 4))
            leased = [] if flight.waits_for_room else await self._lease(flight)
            if leased:
                await session.send(leased)
            else:
                pause = min(_MARKER_LOOK, self._settings.poll) if flight.markers_behind else self._settings.poll
                await wait_for_event(self._awake, pause.total_seconds())

    async def _lease(self, flight: _Flight) -> list[FactIntent]:
        async with self._unit_of_work() as repositories:
            flight.markers_behind = await repositories.markers.release(settle=self._settings.settle)
            ready, replaced = await repositories.outbox.lease_facts(
                owner=self._settings.owner,
                limit=min(self._settings.batch_size, flight.room),
                lease=self._settings.lease,
            )
            fresh, waiting = flight.add(ready)
            if replaced or waiting:
                returned = [_returned(intent) for intent in replaced]
                returned += [_returned(intent, delay=_HELD_UP) for intent in waiting]
                await repositories.outbox.postpone(Topic.FACT, returned)
            if fresh and self._settings.send_vectors:
                fresh = await _with_vectors(repositories.facts, fresh)
                flight.sent |= {each.intent.key: each for each in fresh}
        if any(each.intent.marker for each in fresh) and not await self._trusts_index():
            fresh = await self._hold_markers(fresh, flight)
        self._in_flight.set(flight.size)
        return fresh

    async def _trusts_index(self) -> bool:
        """Asked anew when it was long ago, or the index has been away since."""
        now = asyncio.get_running_loop().time()
        if now < self._trusted_until:
            return True
        try:
            trusted = await self._watch()
        except RemoteError as error:
            logger.info("index_not_looked_at", error=str(error))
            return False
        self._trusted_until = now + _TRUST_SECONDS if trusted else 0.0
        return trusted

    async def _hold_markers(self, fresh: Sequence[FactIntent], flight: _Flight) -> list[FactIntent]:
        """Leaves markers for later, those that are still wanted then. Returns the others."""
        held = [each.intent for each in fresh if each.intent.marker]
        for intent in held:
            del flight.sent[intent.key]
        async with self._unit_of_work() as repositories:
            returned = [_returned(intent, delay=_HELD_UP) for intent in held]
            await repositories.outbox.postpone(Topic.FACT, returned)
        return [each for each in fresh if not each.intent.marker]

    async def _read(self, session: IndexSession, flight: _Flight) -> None:
        async for acknowledgements in session.acknowledgements():
            if not acknowledgements:
                flight.closing = True
            overtaken = await self._acknowledge(acknowledgements, flight)
            if flight.waits_for_room or overtaken or flight.closing:
                self._awake.set()
        flight.closing = True
        self._awake.set()

    async def _acknowledge(self, acknowledgements: Sequence[Acknowledgement], flight: _Flight) -> bool:
        taken = flight.take(acknowledgements)
        overtaken = bool(taken) and await self._settle(taken, flight.settling)
        if any(each.outcome is Outcome.RETRY for each in taken):
            self._trusted_until = 0.0
        for each in taken:
            self._outcomes.labels(each.outcome.name.lower()).inc()
        flight.settling.clear()
        self._in_flight.set(flight.size)
        return await self._recover(taken) or overtaken

    async def _recover(self, answers: Sequence[Acknowledgement]) -> bool:
        """With the first success after an outage, what it has put off is due again: a part with each batch of answers.

        Returns whether something is.
        """
        now = asyncio.get_running_loop().time()
        if not self._recovery.begins(answers, now=now):
            return False
        async with self._unit_of_work() as repositories:
            pulled = await repositories.outbox.pull_forward(limit=_PULLED_TOGETHER)
        if pulled < _PULLED_TOGETHER:
            self._recovery.ended(now=now)
        if pulled:
            logger.info("intents_pulled_forward", intent_count=pulled)
        return pulled > 0

    async def _close_when(self, stop: asyncio.Event, flight: _Flight) -> None:
        await stop.wait()
        flight.closing = True
        self._awake.set()

    async def _give_back(self, flight: _Flight) -> None:
        """What is in flight on a stream that has ended may be leased again at once."""
        if not flight.size:
            return
        returned = [_returned(each.intent) for each in (*flight.settling.values(), *flight.sent.values())]
        self._in_flight.set(0)
        try:
            async with self._unit_of_work() as repositories:
                await repositories.outbox.postpone(Topic.FACT, returned)
        except Unavailable as error:
            logger.warning("leases_left_to_expire", intent_count=len(returned), error=error.message)


def _same(one: FactIntent, other: FactIntent) -> bool:
    return (one.intent.version, one.intent.operation, one.content_hash) == (
        other.intent.version,
        other.intent.operation,
        other.content_hash,
    )


async def _with_vectors(facts: Facts, leased: Sequence[FactIntent]) -> list[FactIntent]:
    """Adds what is kept of exactly the statements that are sent."""
    kept: dict[UUID, dict[str, bytes]] = {}
    hashes = {each.intent.key: statement_hash(each.content.statement) for each in leased if each.content}
    for vector in await facts.vectors(list(hashes)):
        if vector.statement_hash == hashes[vector.fact_id]:
            kept.setdefault(vector.fact_id, {})[vector.model] = vector.values
    return [replace(each, vectors=kept[each.intent.key]) if each.intent.key in kept else each for each in leased]


def _returned(intent: Intent, *, delay: timedelta = timedelta()) -> Postponed:
    return Postponed(key=intent.key, version=intent.version, lease_token=intent.lease_token, delay=delay)
