"""Server-sent events, cut out of the bytes as they arrive."""

from collections.abc import Iterator

_DATA = b"data:"
_MAX_LINE_BYTES = 8 * 1024 * 1024


class EventStream:
    """Feed it bytes; it gives back the data of every event that is complete by then."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, chunk: bytes) -> Iterator[bytes]:
        """Raises `ValueError` for a line that never ends."""
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        if len(self._rest) > _MAX_LINE_BYTES:
            raise ValueError("an event is too long")
        for line in lines:
            if line.startswith(_DATA):
                data = line[len(_DATA) :].strip()
                if data:
                    yield data
