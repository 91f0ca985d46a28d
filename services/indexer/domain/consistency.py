"""Tokens by which a caller sees its own writes.

A token names a marker and a version: `1.<fact id>.<version>`. It is fulfilled once the
index holds that fact, or its tombstone, at that version or a higher one. Whoever issues
tokens sends the marker's intent only after everything that the token stands for was
acknowledged; the version guard makes the marker's version a watermark that never falls.
"""

from dataclasses import dataclass
from uuid import UUID

from services.indexer.domain.fact import FactId, PointState
from services.shared.errors import InvalidRequest

_FORMAT = "1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Watermark:
    marker: FactId
    version: int

    def reached(self, stored: PointState | None) -> bool:
        return stored is not None and stored.version >= self.version


def read_token(token: str) -> Watermark:
    """Raises `InvalidRequest` for what is no token."""
    form, _, rest = token.partition(".")
    marker, _, version = rest.partition(".")
    try:
        if form == _FORMAT and version.isdecimal():
            return Watermark(marker=FactId(str(UUID(marker))), version=int(version))
    except ValueError as error:
        raise _malformed() from error
    raise _malformed()


def _malformed() -> InvalidRequest:
    return InvalidRequest.of("consistency_token", "is not a token of the extractor")
