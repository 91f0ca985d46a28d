"""Reads files into batches of bounded size."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from services.cli.ingest.collect import File, failed
from services.cli.ingest.outcome import Outcome

MAX_ITEMS = 200
MAX_BYTES = 8 * 1024 * 1024
"""Of one batch; half of what the contract allows and less, so that the first facts come early."""
LARGE_BYTES = 4 * 1024 * 1024
"""Files above this are streamed on their own."""

MAX_URI_BYTES = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    path: Path
    content: bytes


Batch = list[Loaded]


def load(found: Iterable[File | Outcome]) -> Iterator[Batch | File | Outcome]:
    """Blocking. Batches of content, large files to be streamed, and outcomes as they came or as reading made them."""
    batch: Batch = []
    size = 0
    for item in found:
        loaded = _load(item)
        if not isinstance(loaded, Loaded):
            yield loaded
            continue
        if batch and (len(batch) == MAX_ITEMS or size + len(loaded.content) > MAX_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(loaded)
        size += len(loaded.content)
    if batch:
        yield batch


def _load(item: File | Outcome) -> Loaded | File | Outcome:
    if isinstance(item, Outcome) or item.size > LARGE_BYTES:
        return item
    if len(item.path.as_uri()) > MAX_URI_BYTES:
        return failed(item.path, OSError(0, "the path is too long"))
    try:
        with item.path.open("rb") as file:
            content = file.read(LARGE_BYTES + 1)
    except OSError as error:
        return failed(item.path, error)
    # It may have grown since it was found.
    return Loaded(path=item.path, content=content) if len(content) <= LARGE_BYTES else item
