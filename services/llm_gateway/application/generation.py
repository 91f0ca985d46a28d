"""One generation in this process: claims the call, then runs it or follows the replica that does.

Callers only read the log. Behind it the generation moves between three ways of getting
frames: run the call and store what it says, follow the records of another replica, or
replay a stored result. A follower that hears nothing for a lease claims the call itself;
a runner whose fence was overtaken becomes a follower. Nothing polls.
"""

import asyncio
import uuid
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import replace

import structlog

from services.llm_gateway.application.attempts import Attempts, GenerationRoute, Run
from services.llm_gateway.application.dead_letters import Graveyard
from services.llm_gateway.application.log import GenerationLog, Reader
from services.llm_gateway.application.ports import (
    CancelRequested,
    Claimed,
    Failed,
    HandedOver,
    Record,
    ResultStore,
    RunningElsewhere,
    Stored,
    UsageLedger,
)
from services.llm_gateway.application.recorder import FenceLost, Recorder
from services.llm_gateway.domain.calls import GenerateCall
from services.llm_gateway.domain.errors import ProviderUnavailable
from services.llm_gateway.domain.frames import Done, Frame, Queued, Started
from services.shared.errors import Cancelled, InternalFault, ServerDraining, ServiceError

# How much longer than the lease a follower stays patient, for clocks and networks.
_PATIENCE_SECONDS = 1.0

logger = structlog.stdlib.get_logger(__name__)


class Generation:
    """`owner` names this generation among all replicas; it holds the claim of the call."""

    def __init__(
        self,
        *,
        call: GenerateCall,
        owner: str,
        route: GenerationRoute,
        attempts: Attempts,
        store: ResultStore,
        ledger: UsageLedger,
        graveyard: Graveyard,
        max_seconds: float,
    ) -> None:
        self.call = call
        self.log = GenerationLog()
        self.readers: set[Reader] = set()
        self.detached = False
        self._owner = owner
        self._route = route
        self._attempts = attempts
        self._store = store
        self._ledger = ledger
        self._graveyard = graveyard
        self._max_seconds = max_seconds
        self._claim: Claimed | None = None
        self._leaving = False

    def deadline(self) -> float | None:
        """When the last of the callers leaves, on the monotonic clock; None when one stays for ever."""
        deadlines = [reader.deadline for reader in self.readers]
        known = [deadline for deadline in deadlines if deadline is not None]
        return max(known) if known and len(known) == len(deadlines) and not self.detached else None

    async def run(self) -> None:
        """Returns when the log has ended; every outcome but cancellation ends there."""
        try:
            while not self.log.ended:
                await self._step()
        except ServiceError as error:
            self.log.fail(error)
        except asyncio.CancelledError:
            self.log.fail(ServerDraining())
            await self._release()
            raise
        except Exception:
            incident_id = uuid.uuid4().hex
            logger.exception("generation_fault", request_id=self.call.request_id, incident_id=incident_id)
            self.log.fail(InternalFault.of(incident_id))
            await self._release()

    async def may_stop(self) -> bool:
        """Called when the last caller has left. Returns whether nobody elsewhere needs the run either.

        When another replica follows the run, waits until that has changed.
        """
        claim = self._claim
        if claim is None:
            return True
        self._leaving = True
        if await self._store.abandon(self.call.request_id, fence=claim.fence):
            return True
        self._leaving = False
        async with aclosing(self._store.follow(self.call.request_id, position=self._store.now)) as batches:
            async for records in batches:
                asked = any(isinstance(record, CancelRequested) for record in records)
                self._leaving = asked
                if asked and await self._store.abandon(self.call.request_id, fence=claim.fence):
                    return True
        return False

    async def _release(self) -> None:
        try:
            await self._store.release(self.call.request_id, owner=self._owner)
        except ServiceError as error:
            # The lease runs out by itself.
            logger.warning("release_failed", request_id=self.call.request_id, reason=error.reason.name)

    async def _step(self) -> None:
        call = self.call
        claim = await self._store.claim(
            call.request_id, fingerprint=call.fingerprint, owner=self._owner, scope=call.scope
        )
        self.log.restarted = self.log.restarted or claim.fence > 1
        match claim:
            case Claimed():
                self._claim = claim
                try:
                    await self._run_here(claim)
                finally:
                    self._claim = None
            case RunningElsewhere():
                await self._follow(claim)
            case Stored():
                self._take([_as_stored(record) for record in claim.records])

    async def _run_here(self, claim: Claimed) -> None:
        for reader in self.readers:
            # What they have seen before is not of this run.
            reader.after_seq = 0
        recorder = Recorder(self._store, request_id=self.call.request_id, fence=claim.fence)

        def emit(frame: Frame) -> None:
            self.log.append(frame)
            if not isinstance(frame, Queued):
                recorder.add(frame)

        run = Run(call=self.call, route=self._route, emit=emit, deadline=self.deadline, attempt=claim.attempts)
        try:
            outcome = await self._record(run, recorder, claim)
        except FenceLost:
            if self._leaving:
                # The run was given up by ourselves, and nobody waits for another one.
                self.log.fail(Cancelled("all callers have left"))
            else:
                logger.warning("fence_lost", request_id=self.call.request_id, fence=claim.fence)
        else:
            self._take([outcome])
        finally:
            self._ledger.record(project_id=self.call.project_id, model=self._route.provider.model.name, usage=run.usage)

    async def _record(self, run: Run, recorder: Recorder, claim: Claimed) -> Done | Failed:
        """Runs the call and stores what it says. Raises `FenceLost`, or `Unavailable` when the store stays away."""
        async with recorder:
            outcome = await self._outcome(run, recorder)
            if recorder.problem is not None:
                raise recorder.problem
            if isinstance(outcome, Failed):
                await self._graveyard.bury(run, outcome.error)
            elif claim.fence > 1:
                await self._graveyard.raise_again(self.call)
            await recorder.finish(outcome)
            return outcome

    async def _outcome(self, run: Run, recorder: Recorder) -> Done | Failed:
        try:
            async with asyncio.timeout(self._max_seconds) as bound:
                with recorder.interrupting(bound):
                    return await self._attempts.run(run)
        except ServiceError as error:
            return Failed(error=error)
        except TimeoutError:
            provider = self._route.provider.model.provider
            return Failed(
                error=ProviderUnavailable(
                    f"{provider} did not end within {self._max_seconds:g} s",
                    metadata={"provider": provider, "provider_status": 0, "attempts": run.attempt},
                )
            )

    async def _follow(self, claim: RunningElsewhere) -> None:
        """Returns when the run has ended, was given up, or has been silent for longer than its lease."""
        patience = self._store.lease_seconds + _PATIENCE_SECONDS
        try:
            async with aclosing(self._store.follow(self.call.request_id, position=claim.position)) as batches:
                while True:
                    async with asyncio.timeout(patience):
                        records = await anext(batches)
                    if self._take(records):
                        return
        except TimeoutError:
            logger.warning("lease_expired_elsewhere", request_id=self.call.request_id, fence=claim.fence)
        finally:
            await self._leave()

    async def _leave(self) -> None:
        try:
            await self._store.leave(self.call.request_id, owner=self._owner)
        except ServiceError as error:
            logger.warning("leave_failed", request_id=self.call.request_id, reason=error.reason.name)

    def _take(self, records: Sequence[Record]) -> bool:
        """Puts records into the log. Returns whether the run they belong to is over."""
        for record in records:
            match record:
                case Failed():
                    self.log.fail(record.error)
                case HandedOver():
                    return True
                case CancelRequested():
                    pass
                case _:
                    self.log.append(record)
        return self.log.ended


def _as_stored(record: Record) -> Record:
    """A stored result was paid for by the call that made it."""
    match record:
        case Started():
            return replace(record, stored=True)
        case Done():
            return replace(record, usage=replace(record.usage, provider_calls=0))
        case _:
            return record
