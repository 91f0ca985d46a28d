"""How intents of a topic are brought to the peer that obeys them."""

from collections.abc import AsyncIterator, Sequence
from itertools import groupby

from services.extractor.application.ports import ResultCache, Scheduler
from services.extractor.domain import identity
from services.extractor.domain.outbox import Intent, Operation
from services.shared.errors import RemoteError

_SCOPES_TOGETHER = 100

Delivered = tuple[Sequence[Intent], Sequence[RemoteError | None]]
"""Intents and the answer to each: None when it is obeyed."""


class JobDelivery:
    """Jobs to create, and jobs to cancel whose source is gone."""

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler

    async def __call__(self, intents: Sequence[Intent]) -> AsyncIterator[Delivered]:
        creations = [intent for intent in intents if intent.operation is Operation.UPSERT]
        # One call per trace, so that each job is linked to the call that asked for it.
        for _, group in groupby(sorted(creations, key=_trace), key=_trace):
            jobs = list(group)
            yield jobs, await self._create(jobs)
        for intent in intents:
            if intent.operation is Operation.DELETE:
                yield [intent], [await self._cancel(intent)]

    async def _create(self, intents: Sequence[Intent]) -> Sequence[RemoteError | None]:
        try:
            return await self._scheduler.create_jobs(intents)
        except RemoteError as error:
            return [error] * len(intents)

    async def _cancel(self, intent: Intent) -> RemoteError | None:
        try:
            await self._scheduler.cancel_job(intent)
        except RemoteError as error:
            return error
        return None


class CacheDelivery:
    """Results of the model that are to be forgotten with their source."""

    def __init__(self, cache: ResultCache) -> None:
        self._cache = cache

    async def __call__(self, intents: Sequence[Intent]) -> AsyncIterator[Delivered]:
        for group in _groups(intents):
            yield group, await self._forget(group)

    async def _forget(self, intents: Sequence[Intent]) -> Sequence[RemoteError | None]:
        scopes = [identity.result_scope(intent.source_id, intent.key) for intent in intents]
        try:
            answers = await self._cache.forget(scopes)
        except RemoteError as error:
            return [error] * len(intents)
        return [answer if isinstance(answer, RemoteError) else None for answer in answers]


def _groups(intents: Sequence[Intent]) -> list[Sequence[Intent]]:
    return [intents[start : start + _SCOPES_TOGETHER] for start in range(0, len(intents), _SCOPES_TOGETHER)]


def _trace(intent: Intent) -> str:
    return intent.traceparent
