"""Applies one batch of intents to every epoch that takes writes, and says truthfully what became of each.

The order is: newest intent per fact, vectors for every epoch, conditional write, read
back, verdict. An intent that the epoch that is searched refuses leaves a tombstone of its
version in all of them: what the index said of the fact before is not true any more, and
no epoch may keep it. An epoch that is not searched, and whose model alone refuses a text,
holds the fact without a dense vector, so that it becomes whole all the same. The
first write has one guard for all of the batch, the lowest of its versions; that is exact
for new facts and, as versions grow, for nearly all edits. What it held back is written
again under guards of its own.
Only the read after a completed write decides, so an intent that lost against another
replica is told so, and one whose write is in doubt is never called applied.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import structlog

from services.indexer.application.epochs import Epochs
from services.indexer.application.ports import FactStore, PointWrite, SparseEncoder, WriteRefused
from services.indexer.application.vectors import Vectorizer, Vectors
from services.indexer.domain.epochs import Epoch
from services.indexer.domain.errors import CollectionMissing, TextRefused
from services.indexer.domain.fact import FactId, Intent, PointState, Vector
from services.indexer.domain.identity import embedding_id
from services.indexer.domain.outcome import Ack, acknowledge, rejected, retry
from services.indexer.domain.versions import Verdict, judge, overwrites, winners
from services.shared.errors import InvalidRequest, ServiceError

logger = structlog.stdlib.get_logger(__name__)

Key = tuple[FactId, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class EpochResult:
    points: Mapping[FactId, str]
    """Ids of the points of the epoch."""
    verdicts: Sequence[Verdict]
    """By position in the batch."""
    failures: Mapping[Key, ServiceError]
    """Why an intent was not even written."""
    embedded: Mapping[FactId, Vector]
    """Vectors that the callers did not know."""


class ApplyIntents:
    def __init__(self, *, epochs: Epochs, facts: FactStore, vectorizer: Vectorizer, sparse: SparseEncoder) -> None:
        self._epochs = epochs
        self._facts = facts
        self._vectorizer = vectorizer
        self._sparse = sparse

    async def __call__(self, intents: Sequence[Intent]) -> list[Ack]:
        """One acknowledgement per intent, in the same order. No failure of a store or a model is raised."""
        results: dict[int, EpochResult] = {}
        decided: dict[Key, ServiceError] = {}
        try:
            catalogue = await self._epochs.view()
            # An epoch that was created meanwhile takes these intents too, before anything is acknowledged.
            while behind := [epoch for epoch in catalogue.writable if epoch.number not in results]:
                vectors = await self._vectors(behind, winners(intents))
                if not results:
                    decided = _decisions(winners(intents), vectors[catalogue.serving.number])
                results |= await self._to_epochs(behind, intents, vectors, decided)
                catalogue = await self._epochs.view()
        except ServiceError as error:
            return [retry(intent, error) for intent in intents]
        written = {epoch.number: results[epoch.number] for epoch in catalogue.writable}
        serving = catalogue.serving.number
        models = {epoch.number: epoch.model for epoch in catalogue.writable}
        return [
            _join(position, intent, written, decided, serving=serving, models=models)
            for position, intent in enumerate(intents)
        ]

    async def _vectors(self, epochs: Sequence[Epoch], newest: Sequence[Intent]) -> Mapping[int, Vectors]:
        async with asyncio.TaskGroup() as group:
            tasks = {epoch.number: group.create_task(self._vectorizer.dense(epoch, newest)) for epoch in epochs}
        return {number: task.result() for number, task in tasks.items()}

    async def _to_epochs(
        self,
        epochs: Sequence[Epoch],
        intents: Sequence[Intent],
        vectors: Mapping[int, Vectors],
        decided: Mapping[Key, ServiceError],
    ) -> dict[int, EpochResult]:
        """Applies to all of the epochs at once, waits for all, and raises the first failure."""
        async with asyncio.TaskGroup() as group:
            tasks = {
                epoch.number: group.create_task(self._attempt(epoch, intents, vectors[epoch.number], decided))
                for epoch in epochs
            }
        results: dict[int, EpochResult] = {}
        for number, task in tasks.items():
            result = task.result()
            if isinstance(result, ServiceError):
                raise result
            results[number] = result
        return results

    async def _attempt(
        self, epoch: Epoch, intents: Sequence[Intent], vectors: Vectors, decided: Mapping[Key, ServiceError]
    ) -> EpochResult | ServiceError:
        try:
            return await self._to_epoch(epoch, intents, vectors, decided)
        except ServiceError as error:
            if isinstance(error, CollectionMissing):
                self._epochs.forget()
            return error

    async def to_epoch(self, epoch: Epoch, intents: Sequence[Intent]) -> EpochResult:
        """Applies the batch to one epoch. Raises when the store did, with the outcome unknown."""
        vectors = await self._vectorizer.dense(epoch, winners(intents))
        return await self._to_epoch(epoch, intents, vectors, {})

    async def _to_epoch(
        self, epoch: Epoch, intents: Sequence[Intent], vectors: Vectors, decided: Mapping[Key, ServiceError]
    ) -> EpochResult:
        newest = winners(intents)
        points = {intent.fact_id: embedding_id(epoch.number, intent.fact_id) for intent in newest}
        failures: dict[Key, ServiceError] = {}
        writes: list[PointWrite] = []
        for intent in newest:
            vector = vectors.of.get(intent.fact_id)
            decision = decided.get(_key(intent))
            if decision is not None and _is_final(intent, decision):
                writes.append(self._point(replace(intent, content=None), points[intent.fact_id], None))
            elif decision is not None:
                failures[_key(intent)] = decision
            elif isinstance(vector, TextRefused):
                logger.warning("fact_without_vector", epoch=epoch.number, fact_id=intent.fact_id)
                writes.append(self._point(intent, points[intent.fact_id], None))
            elif isinstance(vector, ServiceError):
                failures[_key(intent)] = vector
            else:
                writes.append(self._point(intent, points[intent.fact_id], vector))
        await self._write(epoch, [writes] if writes else [], failures)
        states = await self._facts.states(epoch, points.values())
        held_back = [write for write in writes if _held_back(write, states)]
        if held_back:
            await self._write(epoch, _by_version(held_back), failures)
            states = {**states, **await self._facts.states(epoch, [write.embedding_id for write in held_back])}
        verdicts = [judge(intent, states.get(points[intent.fact_id])) for intent in intents]
        embedded = {write.intent.fact_id: write.dense for write in writes if write.dense is not None}
        return EpochResult(
            points=points,
            verdicts=verdicts,
            failures=failures,
            embedded={fact_id: vector for fact_id, vector in embedded.items() if fact_id in vectors.embedded},
        )

    def _point(self, intent: Intent, point: str, vector: Vector | None) -> PointWrite:
        if intent.content is None:
            return PointWrite(intent=intent, embedding_id=point)
        sparse = self._sparse.document(intent.content.statement)
        return PointWrite(intent=intent, embedding_id=point, dense=vector, sparse=sparse)

    async def _write(
        self, epoch: Epoch, groups: Sequence[Sequence[PointWrite]], failures: dict[Key, ServiceError]
    ) -> None:
        """Writes; when the store calls the request invalid, halves it until the item at fault stands alone."""
        if not groups:
            return
        try:
            await self._facts.write(epoch, groups)
        except WriteRefused:
            parts = groups if len(groups) > 1 else groups[0]
            if len(parts) == 1:
                failures[_key(groups[0][0].intent)] = InvalidRequest.of("content", "refused by the vector store")
                return
            middle = len(parts) // 2
            for half in (slice(middle), slice(middle, None)):
                await self._write(epoch, groups[half] if len(groups) > 1 else [groups[0][half]], failures)


def _held_back(write: PointWrite, states: Mapping[str, PointState]) -> bool:
    """Whether the common guard of the batch was stricter than this write's own: an older version still stands."""
    stored = states.get(write.embedding_id)
    return stored is not None and overwrites(write.intent.version, stored)


def _by_version(writes: Sequence[PointWrite]) -> list[list[PointWrite]]:
    """Groups whose common guard is exactly that of each member."""
    groups: dict[int, list[PointWrite]] = {}
    for write in writes:
        groups.setdefault(write.intent.version, []).append(write)
    return list(groups.values())


def _key(intent: Intent) -> Key:
    return intent.fact_id, intent.version


def _decisions(newest: Sequence[Intent], vectors: Vectors) -> dict[Key, ServiceError]:
    """Why the epoch that is searched does not take an intent now; then no epoch takes it."""
    found = ((_key(intent), intent.refusal or vectors.of.get(intent.fact_id)) for intent in newest)
    return {key: error for key, error in found if isinstance(error, ServiceError)}


def _is_final(intent: Intent, error: ServiceError) -> bool:
    """Whether the content itself is at fault, so that this version will never be in the index."""
    return intent.refusal is not None or isinstance(error, TextRefused)


def _join(
    position: int,
    intent: Intent,
    by_epoch: Mapping[int, EpochResult],
    decided: Mapping[Key, ServiceError],
    *,
    serving: int,
    models: Mapping[int, str],
) -> Ack:
    verdicts = {number: result.verdicts[position] for number, result in by_epoch.items()}
    decision = decided.get(_key(intent))
    if decision is not None and _is_final(intent, decision) and set(verdicts.values()) == {Verdict.COLLISION}:
        # Its tombstone is what stands there.
        return rejected(intent, decision)
    if Verdict.NOT_WRITTEN in verdicts.values():
        failures = (result.failures.get(_key(intent)) for result in by_epoch.values())
        failure = next((each for each in failures if each is not None), None)
        if failure is not None:
            # Without a delay the error says that sending the same thing again cannot help.
            return rejected(intent, failure) if failure.retry_delay is None else retry(intent, failure)
    return acknowledge(
        intent,
        verdicts,
        serving=serving,
        embedding_id=by_epoch[serving].points[intent.fact_id],
        vectors={
            models[number]: result.embedded[intent.fact_id]
            for number, result in by_epoch.items()
            if intent.fact_id in result.embedded
        },
    )
