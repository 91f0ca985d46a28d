"""Turns texts into vectors: admission and retries around a provider; empty texts fail alone."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from services.llm_gateway.application.admission import Ticket
from services.llm_gateway.application.catalogue import Catalogue, EmbeddingRoute
from services.llm_gateway.application.ports import Sample, UsageLedger, Vectors
from services.llm_gateway.application.retrying import Retries
from services.llm_gateway.domain.calls import Usage, estimated_tokens
from services.llm_gateway.domain.errors import ProviderError, ProviderFailure, ProviderRejection, TextEmpty
from services.llm_gateway.domain.frames import Queued
from services.shared.clock import Clock
from services.shared.errors import TooLarge

_MAX_BYTES = 8 * 1024 * 1024
_TOKENS_PER_COST = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Embedded:
    """One vector or one failure per text, in order."""

    model: str
    dimension: int
    vectors: Sequence[bytes | TextEmpty]
    usage: Usage


class Embed:
    def __init__(self, *, catalogue: Catalogue, retries: Retries, ledger: UsageLedger, clock: Clock) -> None:
        self._catalogue = catalogue
        self._retries = retries
        self._ledger = ledger
        self._clock = clock

    async def __call__(
        self, *, project_id: str, model: str, texts: Sequence[str], priority: int, deadline: float | None
    ) -> Embedded:
        """`deadline` is when the caller leaves, on the monotonic clock."""
        route = self._catalogue.embedding(model)
        _require_size(texts)
        wanted = [text for text in texts if _has_words(text)]
        found = Vectors(rows=(), dimension=route.provider.model.dimension, usage=Usage())
        if wanted:
            cost = 1 + estimated_tokens(sum(map(len, wanted))) / _TOKENS_PER_COST
            ticket = Ticket(project_id=project_id, priority=priority, cost=cost, deadline=deadline)
            found = await self._ask(route, ticket, wanted)
        self._ledger.record(project_id=project_id, model=route.provider.model.name, usage=found.usage)
        rows = iter(found.rows)
        vectors = [next(rows) if _has_words(text) else b"" for text in texts]
        return Embedded(
            model=route.provider.model.name,
            dimension=found.dimension,
            vectors=[vector or TextEmpty("there is nothing to embed in the text") for vector in vectors],
            usage=found.usage,
        )

    async def _ask(self, route: EmbeddingRoute, ticket: Ticket, texts: Sequence[str]) -> Vectors:
        self._retries.begin()
        for attempt in range(1, self._retries.max_attempts + 1):
            try:
                return await self._ask_once(route, replace(ticket, again=attempt > 1), texts)
            except ProviderRejection as error:
                raise error.refused(route.provider.model.provider) from error
            except ProviderFailure as error:
                await self._retries.pause(
                    error,
                    attempt=attempt,
                    admission=route.admission,
                    provider=route.provider.model.provider,
                    deadline=ticket.deadline,
                )
        raise AssertionError("the last failed attempt raises")

    async def _ask_once(self, route: EmbeddingRoute, ticket: Ticket, texts: Sequence[str]) -> Vectors:
        async with route.admission.slot(ticket, on_queued=_ignore):
            started = self._clock.monotonic()
            used = Usage()
            failure: ProviderError | None = None
            try:
                found = await route.provider.embed(texts)
                used = found.usage
            except ProviderError as error:
                failure = error
                raise
            finally:
                route.admission.record(
                    Sample(
                        usage=used,
                        seconds=self._clock.monotonic() - started,
                        first_token_seconds=None,
                        throttled=isinstance(failure, ProviderFailure) and failure.throttled,
                        failed=failure is not None,
                    )
                )
            return found


def _require_size(texts: Sequence[str]) -> None:
    size = sum(len(text.encode()) for text in texts)
    if size > _MAX_BYTES:
        raise TooLarge(
            f"the texts have {size} bytes together, {_MAX_BYTES} are allowed",
            metadata={"limit_bytes": _MAX_BYTES, "size_bytes": size},
        )


def _has_words(text: str) -> bool:
    return bool(text) and not text.isspace()


def _ignore(_frame: Queued) -> None:
    """An embedding has no stream to tell its place in the queue to."""
