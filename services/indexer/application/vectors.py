"""Dense vectors for a batch: those that callers know already, embeddings for the rest.

A known vector comes with the model that made it, and is taken by epochs of that model
only; other epochs embed the statement, so that no collection ever mixes models.
"""

import asyncio
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from services.indexer.application.ports import Embedder
from services.indexer.domain.epochs import Epoch
from services.indexer.domain.errors import TextEmpty, VectorInvalid
from services.indexer.domain.fact import FactId, Intent, Vector
from services.shared.errors import ServiceError

_WRITE_PRIORITY = 5
_QUERY_PRIORITY = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Vectors:
    """By fact: its vector, or why it has none. `embedded` are the facts whose vector was not known before."""

    of: dict[FactId, Vector | ServiceError] = field(default_factory=dict[FactId, "Vector | ServiceError"])
    embedded: set[FactId] = field(default_factory=set[FactId])


class Vectorizer:
    """At most `concurrency` calls to the gateway run at one time, each with `batch_size` texts of one project."""

    def __init__(self, embedder: Embedder, *, batch_size: int, concurrency: int) -> None:
        self._embedder = embedder
        self._batch_size = batch_size
        self._slots = asyncio.Semaphore(concurrency)

    async def dense(self, epoch: Epoch, intents: Sequence[Intent]) -> Vectors:
        """The vector of every upsert, or why it has none. The intents are of different facts."""
        vectors = Vectors()
        unknown: dict[str, list[tuple[FactId, str]]] = {}
        for intent in intents:
            if intent.content is None:
                continue
            known = intent.vectors.get(epoch.model)
            if known is not None:
                vectors.of[intent.fact_id] = checked(known, epoch.dimension)
            elif intent.content.statement.strip():
                unknown.setdefault(intent.project_id, []).append((intent.fact_id, intent.content.statement))
            else:
                vectors.of[intent.fact_id] = TextEmpty.of_fact(intent.fact_id)
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(self._embed(epoch, project_id, part))
                for project_id, texts in unknown.items()
                for part in _parts(texts, self._batch_size)
            ]
        for task in tasks:
            embedded = task.result()
            vectors.of.update(embedded)
            vectors.embedded.update(embedded)
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
