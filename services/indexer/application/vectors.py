"""Dense vectors for a batch: those that callers know already, embeddings for the rest.

A known vector belongs to the model of the epoch that is searched; other epochs embed
the statement by their own model, so that no collection ever mixes models.
"""

import asyncio
import math
from collections.abc import Iterator, Mapping, Sequence

from services.indexer.application.ports import Embedder
from services.indexer.domain.epochs import Epoch, EpochState
from services.indexer.domain.errors import TextEmpty, VectorInvalid
from services.indexer.domain.fact import FactId, Intent
from services.shared.errors import ServiceError

Vector = Sequence[float]

_WRITE_PRIORITY = 5
_QUERY_PRIORITY = 0


class Vectorizer:
    """At most `concurrency` calls to the gateway run at one time, each with `batch_size` texts of one project."""

    def __init__(self, embedder: Embedder, *, batch_size: int, concurrency: int) -> None:
        self._embedder = embedder
        self._batch_size = batch_size
        self._slots = asyncio.Semaphore(concurrency)

    async def dense(self, epoch: Epoch, intents: Sequence[Intent]) -> Mapping[FactId, Vector | ServiceError]:
        """The vector of every upsert, or why it has none. The intents are of different facts."""
        vectors: dict[FactId, Vector | ServiceError] = {}
        unknown: dict[str, list[tuple[FactId, str]]] = {}
        for intent in intents:
            if intent.content is None:
                continue
            if intent.vector and epoch.state is EpochState.SERVING:
                vectors[intent.fact_id] = checked(intent.vector, epoch.dimension)
            elif intent.content.statement.strip():
                unknown.setdefault(intent.project_id, []).append((intent.fact_id, intent.content.statement))
            else:
                vectors[intent.fact_id] = TextEmpty.of_fact(intent.fact_id)
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(self._embed(epoch, project_id, part))
                for project_id, texts in unknown.items()
                for part in _parts(texts, self._batch_size)
            ]
        for task in tasks:
            vectors.update(task.result())
        return vectors

    async def query(self, epoch: Epoch, text: str, *, project_id: str) -> Vector:
        """The vector of a search. Raises what the gateway says against it."""
        answer = await self._embedder.embed([text], project_id=project_id, model=epoch.model, priority=_QUERY_PRIORITY)
        vector = _usable(answer.vectors[0], epoch.dimension)
        if isinstance(vector, ServiceError):
            raise vector
        return vector

    async def _embed(
        self, epoch: Epoch, project_id: str, facts: Sequence[tuple[FactId, str]]
    ) -> dict[FactId, Vector | ServiceError]:
        """A failed call fails its own facts only."""
        texts = [text for _, text in facts]
        try:
            async with self._slots:
                answer = await self._embedder.embed(
                    texts, project_id=project_id, model=epoch.model, priority=_WRITE_PRIORITY
                )
        except ServiceError as error:
            return {fact_id: error for fact_id, _ in facts}
        return {
            fact_id: _usable(vector, epoch.dimension)
            for (fact_id, _), vector in zip(facts, answer.vectors, strict=True)
        }


def checked(vector: Vector, dimension: int) -> Vector | VectorInvalid:
    """The vector itself, if it has the right length and finite values only."""
    if len(vector) != dimension:
        return VectorInvalid.of_dimension(expected=dimension, actual=len(vector))
    # A sum is finite exactly when all values are: single-precision values cannot overflow a double.
    if not math.isfinite(sum(vector)):
        return VectorInvalid.of_value(dimension=dimension)
    return vector


def _usable(vector: Vector | ServiceError, dimension: int) -> Vector | ServiceError:
    return vector if isinstance(vector, ServiceError) else checked(vector, dimension)


def _parts(items: Sequence[tuple[FactId, str]], size: int) -> Iterator[Sequence[tuple[FactId, str]]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]
