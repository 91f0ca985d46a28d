"""Which failures of a peer the same request would meet again."""

from typing import Final

from services.shared.errors import Code, RemoteError

_FINAL: Final = frozenset(
    {Code.INVALID_ARGUMENT, Code.NOT_FOUND, Code.ALREADY_EXISTS, Code.FAILED_PRECONDITION, Code.UNIMPLEMENTED}
)


def is_final(error: RemoteError) -> bool:
    """Whether asking again cannot help. Everything else, faults of the peer included, may pass."""
    return error.code in _FINAL
