"""Random intents and an index that follows the version guard, for property tests."""

import hashlib
from collections.abc import Iterable
from uuid import UUID

from hypothesis import strategies as st

from services.indexer.domain.fact import FactContent, FactId, Intent, Operation, PointState
from services.indexer.domain.versions import overwrites

FACTS = tuple(FactId(str(UUID(int=number << 100 | number))) for number in range(1, 5))
PROJECT = str(UUID(int=7))


def intent(fact: FactId, version: int, *, deleted: bool = False, text: str | None = None) -> Intent:
    """As the extractor makes them: the content follows from fact and version."""
    statement = text or f"{fact} at {version}"
    return Intent(
        fact_id=fact,
        version=version,
        operation=Operation.DELETE if deleted else Operation.UPSERT,
        project_id=PROJECT,
        source_id=PROJECT,
        content_hash=hashlib.sha256(statement.encode()).digest(),
        content=None if deleted else FactContent(statement=statement),
    )


def history(*, max_version: int = 6) -> st.SearchStrategy[list[Intent]]:
    """Intents as they may arrive: any order, any number of times, but one meaning per version."""
    meanings = st.dictionaries(
        st.tuples(st.sampled_from(FACTS), st.integers(1, max_version)), st.booleans(), min_size=1, max_size=12
    )
    return meanings.flatmap(
        lambda found: st.lists(
            st.sampled_from([intent(fact, version, deleted=deleted) for (fact, version), deleted in found.items()]),
            min_size=1,
            max_size=30,
        )
    )


class ModelIndex:
    """What Qdrant does with conditional writes, without Qdrant."""

    def __init__(self) -> None:
        self.points: dict[FactId, PointState] = {}

    def write(self, intents: Iterable[Intent]) -> None:
        for each in intents:
            if overwrites(each.version, self.points.get(each.fact_id)):
                self.points[each.fact_id] = PointState(
                    version=each.version, content_hash=each.content_hash, tombstone=each.content is None
                )

    @property
    def live(self) -> dict[FactId, int]:
        return {fact: state.version for fact, state in self.points.items() if not state.tombstone}
