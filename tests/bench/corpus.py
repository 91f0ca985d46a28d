"""Made-up facts for the benchmarks: sentences over a vocabulary whose words are as unevenly frequent as real ones."""

import random
from collections.abc import Sequence
from hashlib import sha256
from itertools import accumulate
from uuid import UUID

from services.extractor.domain.facts import Fact
from services.extractor.domain.grounding import GroundedValue


class Corpus:
    def __init__(self, seed: int) -> None:
        self._rng = random.Random(seed)
        letters = "abcdefghijklmnoprstuvwy"
        self._words = ["".join(self._rng.choices(letters, k=self._rng.randint(4, 9))) for _ in range(8000)]
        # Summed once: to draw a sentence from plain weights takes longer than to index it.
        self._weights = list(accumulate(1.0 / (rank + 3) for rank in range(len(self._words))))

    def sentence(self, words: int = 14) -> str:
        return " ".join(self._rng.choices(self._words, cum_weights=self._weights, k=words)).capitalize() + "."

    def facts(self, count: int) -> list[Fact]:
        return [self._fact() for _ in range(count)]

    def _fact(self) -> Fact:
        statement = self.sentence()
        words = statement.rstrip(".").split()
        values = {"subject": words[0], "predicate": words[1], "object": " ".join(words[2:6])}
        start = self._rng.randint(0, 100_000)
        fact_id = UUID(int=self._rng.getrandbits(128), version=4)
        return Fact(
            fact_id=fact_id,
            group="facts",
            item_key=str(fact_id),
            statement=statement,
            category=self._rng.choice(["people", "places", "events"]),
            values=tuple(
                GroundedValue(name=name, value=value, start=start, end=start + len(value))
                for name, value in values.items()
            ),
            quote=statement,
            start=start,
            end=start + len(statement),
            context_before="It was so: ",
            context_after=" And then it was not.",
            entities=tuple(dict.fromkeys(self._rng.choices(self._words[:500], k=2))),
            entity_ids=(),
            confidence=0.9,
            model="bench",
            chunk_index=0,
            content_hash=sha256(statement.encode()).digest(),
        )


def percentile(seconds: Sequence[float], share: float) -> float:
    """In milliseconds."""
    ordered = sorted(seconds)
    return round(ordered[min(len(ordered) - 1, int(len(ordered) * share))] * 1000, 1)
