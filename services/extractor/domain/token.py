"""Consistency tokens, as the indexer reads them: a search with one waits until the index has come so far."""

from uuid import UUID

_FORMAT = "1"


def write_token(*, marker: UUID, version: int) -> str:
    return f"{_FORMAT}.{marker}.{version}"
