"""How a job `extract` ended."""

from dataclasses import dataclass

from services.extractor.domain.source import Ending


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """`ending` is None while chunks are unfinished, and when the source was deleted meanwhile."""

    ending: Ending | None
    chunk_count: int = 0
    fact_count: int = 0
    unfinished_count: int = 0
    """Chunks that the model could not be asked about; the job must run again."""

    @property
    def gone(self) -> bool:
        return self.ending is None and not self.unfinished_count
