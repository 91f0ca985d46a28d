"""Use cases of workers: renew, complete, fail and release what they hold.

Calls that arrive together share a statement and a commit, so that single messages cost
little more than batches. Every write carries its fence into that statement.
"""

import random
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from datetime import timedelta
from typing import Self, TypeVar

from services.scheduler.application.dispatcher import Dispatcher
from services.scheduler.application.ports import JobLeases, Renewed, Settled, Settlement
from services.scheduler.application.signals import Signals
from services.scheduler.domain.job import Completion, Directive, FailedAttempt, JobState, Release, Renewal
from services.shared.batching import Batcher

ItemT = TypeVar("ItemT")
ResultT = TypeVar("ResultT")

_MAX_STATEMENT_ITEMS = 1000
# One at a time: what arrives meanwhile shares the next statement, and batches form by themselves under load.
_CONCURRENT_STATEMENTS = 1
# A statement and its commit cost what dozens of jobs in it cost.
_SPACING = timedelta(milliseconds=4)

Requests = Sequence[Sequence[ItemT]]


class WorkOnJobs:
    def __init__(self, *, leases: JobLeases, dispatcher: Dispatcher, signals: Signals, rng: random.Random) -> None:
        self._leases = leases
        self._dispatcher = dispatcher
        self._signals = signals
        self._rng = rng
        self._stack = AsyncExitStack()
        self._renewing = _batcher("renew", self._renew)
        self._completing = _batcher("complete", self._complete)
        self._failing = _batcher("fail", self._fail)
        self._releasing = _batcher("release", self._release)

    async def __aenter__(self) -> Self:
        for batcher in (self._renewing, self._completing, self._failing, self._releasing):
            await self._stack.enter_async_context(batcher)
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._stack.aclose()

    async def renew(self, renewals: Sequence[Renewal]) -> Sequence[Renewed]:
        return await self._renewing.submit(renewals)

    async def complete(self, completions: Sequence[Completion]) -> Sequence[Settled]:
        return await self._completing.submit(completions)

    async def fail(self, attempts: Sequence[FailedAttempt]) -> Sequence[Settled]:
        return await self._failing.submit(attempts)

    async def release(self, releases: Sequence[Release]) -> Sequence[Settled]:
        return await self._releasing.submit(releases)

    async def _renew(self, requests: Requests[Renewal]) -> Sequence[Sequence[Renewed]]:
        renewed = await self._leases.renew(_flat(requests))
        self._dispatcher.returned(each.lease for each in renewed if each.directive is Directive.LOST)
        if any(renewal.progress for request in requests for renewal in request):
            self._signals.changed.set()
        return _split(renewed, requests)

    async def _complete(self, requests: Requests[Completion]) -> Sequence[Sequence[Settled]]:
        return self._settled(await self._leases.complete(_flat(requests)), requests)

    async def _fail(self, requests: Requests[FailedAttempt]) -> Sequence[Sequence[Settled]]:
        attempts = _flat(requests)
        jitters = [self._rng.random() for _ in attempts]
        return self._settled(await self._leases.fail(attempts, jitters=jitters), requests)

    async def _release(self, requests: Requests[Release]) -> Sequence[Sequence[Settled]]:
        return self._settled(await self._leases.release(_flat(requests)), requests)

    def _settled(self, settlement: Settlement, requests: Requests[ItemT]) -> Sequence[Sequence[Settled]]:
        self._dispatcher.settled(settlement)
        self._signals.count_ended(settlement.ended)
        self._signals.changed.set()
        waiting = sum(outcome.state is JobState.PENDING for outcome in settlement.outcomes)
        if waiting > len(settlement.ready):
            self._signals.delayed.set()
        return _split(settlement.outcomes, requests)


def _batcher(
    name: str, apply: Callable[[Requests[ItemT]], Awaitable[Sequence[Sequence[ResultT]]]]
) -> Batcher[Sequence[ItemT], Sequence[ResultT]]:
    return Batcher(
        apply,
        name=name,
        max_weight=_MAX_STATEMENT_ITEMS,
        spacing=_SPACING,
        concurrency=_CONCURRENT_STATEMENTS,
        weigh=len,
    )


def _flat(requests: Requests[ItemT]) -> list[ItemT]:
    return [item for request in requests for item in request]


def _split(results: Sequence[ResultT], requests: Requests[ItemT]) -> list[Sequence[ResultT]]:
    """Deals the results out again, as many to each request as it had items."""
    split: list[Sequence[ResultT]] = []
    start = 0
    for request in requests:
        split.append(results[start : start + len(request)])
        start += len(request)
    return split
