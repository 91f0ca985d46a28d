"""Concurrency limits."""

from services.llm_gateway.application.ports import Sample


class FixedLimit:
    """The same limit whatever happens."""

    def __init__(self, limit: int) -> None:
        self._limit = limit

    @property
    def limit(self) -> int:
        return self._limit

    def record(self, sample: Sample) -> None:
        """A fixed limit learns nothing."""
