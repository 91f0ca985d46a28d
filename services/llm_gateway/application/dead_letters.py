"""Requests that failed for good: kept whole, listed, sent again, deleted.

Only refusals and invalid output end here. What may pass by itself, such as an outage, is
the caller's to retry under the same request id.
"""

from collections.abc import Callable, Sequence

import structlog

from services.llm_gateway.application.attempts import Run
from services.llm_gateway.application.ports import DeadLetterPage, DeadLetterStore
from services.llm_gateway.domain.calls import GenerateCall
from services.llm_gateway.domain.records import DeadLetter
from services.shared.clock import Clock
from services.shared.errors import NotFound, Reason, ServiceError

_FINAL = frozenset({Reason.PROVIDER_REFUSED, Reason.OUTPUT_INVALID})

logger = structlog.stdlib.get_logger(__name__)


class Graveyard:
    """Where failed calls go. An outage of the store costs the dead letter, never the caller's answer."""

    def __init__(self, *, store: DeadLetterStore, clock: Clock) -> None:
        self._store = store
        self._clock = clock

    async def bury(self, run: Run, error: ServiceError) -> None:
        if error.reason not in _FINAL:
            return
        letter = DeadLetter(
            call=run.call,
            attempts=tuple(run.failures),
            reason=error.reason,
            fail_time=self._clock.now(),
            usage=run.usage,
        )
        try:
            await self._store.put(letter)
        except ServiceError:
            logger.warning("dead_letter_lost", request_id=run.call.request_id, reason=error.reason.name)

    async def raise_again(self, call: GenerateCall) -> None:
        """The call has succeeded after all."""
        try:
            await self._store.delete([call.request_id])
        except ServiceError:
            logger.warning("dead_letter_stays", request_id=call.request_id)


class DeadLetters:
    """What an operator does with them. `start` begins a call without a caller."""

    def __init__(self, *, store: DeadLetterStore, start: Callable[[GenerateCall], None]) -> None:
        self._store = store
        self._start = start

    async def page(self, *, project_id: str, size: int, after: str) -> DeadLetterPage:
        return await self._store.page(project_id=project_id, size=size, after=after)

    async def replay(self, request_ids: Sequence[str]) -> list[ServiceError | None]:
        """One outcome per id: None when the call is under way."""
        found = await self._store.get(request_ids)
        return [self._replay(request_id, found.get(request_id)) for request_id in request_ids]

    async def delete(self, request_ids: Sequence[str]) -> int:
        """How many of them existed."""
        return await self._store.delete(request_ids)

    def _replay(self, request_id: str, letter: DeadLetter | None) -> ServiceError | None:
        if letter is None:
            return NotFound.of("dead letter", request_id)
        try:
            self._start(letter.call)
        except ServiceError as error:
            return error
        return None
