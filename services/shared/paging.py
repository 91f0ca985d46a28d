"""Page sizes and page tokens of List RPCs.

A token holds the position after the last row and a digest of the arguments it belongs
to, in base64url, so that it cannot be carried over to another filter. It is opaque to
clients and no authorization: what it names is checked again by the query it goes into.
"""

import base64
import binascii
import hashlib
from collections.abc import Mapping
from typing import Any

import orjson

from services.shared.errors import InvalidRequest, PageTokenInvalid

DEFAULT_PAGE_SIZE = 50
MAX_PAGE_SIZE = 1000

_DIGEST_BYTES = 8


def page_size(requested: int, *, default: int = DEFAULT_PAGE_SIZE, maximum: int = MAX_PAGE_SIZE) -> int:
    """0 gives the default, more than the maximum the maximum; raises for a negative size."""
    if requested < 0:
        raise InvalidRequest.of("page_size", "must not be negative")
    return min(requested or default, maximum)


def encode_token(position: Mapping[str, Any], *, arguments: Mapping[str, Any]) -> str:
    """`position` and `arguments` hold what JSON holds, and UUIDs and datetimes, which come back as strings."""
    payload = orjson.dumps(dict(position), option=orjson.OPT_SORT_KEYS)
    return base64.urlsafe_b64encode(_digest(payload, arguments) + payload).rstrip(b"=").decode()


def decode_token(token: str, *, arguments: Mapping[str, Any]) -> dict[str, Any] | None:
    """The position in the token; None for the empty token of a first page.

    Raises `PageTokenInvalid` when it is damaged or was made for other arguments.
    """
    if not token:
        return None
    try:
        raw = base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True)
        digest, payload = raw[:_DIGEST_BYTES], raw[_DIGEST_BYTES:]
        if digest == _digest(payload, arguments):
            return orjson.loads(payload)
    except (binascii.Error, ValueError) as error:
        raise PageTokenInvalid("the page token is malformed") from error
    raise PageTokenInvalid("the page token belongs to other arguments")


def _digest(payload: bytes, arguments: Mapping[str, Any]) -> bytes:
    bound = orjson.dumps(dict(arguments), option=orjson.OPT_SORT_KEYS)
    return hashlib.blake2b(payload + b"\x00" + bound, digest_size=_DIGEST_BYTES, person=b"page-token").digest()
