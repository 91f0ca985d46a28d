"""Errors of the stand-in, with the status codes and the wording prefixes that a Qdrant server answers with.

- RequestError: the request fails, the server goes on
    - InvalidArgumentError
    - NotFoundError
    - AlreadyExistsError
    - UnimplementedError
    - InternalError
        - NoSpaceError
- StandInError: the process cannot start, or cannot go on; the message is the one line that the user reads
"""

from collections.abc import Callable
from typing import ClassVar, TypeVar

import grpc

T = TypeVar("T")


class RequestError(Exception):
    code: ClassVar[grpc.StatusCode]
    prefix: ClassVar[str]

    @property
    def message(self) -> str:
        return f"{self.prefix}: {self}"


class InvalidArgumentError(RequestError):
    code = grpc.StatusCode.INVALID_ARGUMENT
    prefix = "Wrong input"


class NotFoundError(RequestError):
    code = grpc.StatusCode.NOT_FOUND
    prefix = "Not found"


class AlreadyExistsError(RequestError):
    code = grpc.StatusCode.ALREADY_EXISTS
    prefix = "Wrong input"


class UnimplementedError(RequestError):
    code = grpc.StatusCode.UNIMPLEMENTED
    prefix = "Not supported by the local stand-in"


class InternalError(RequestError):
    code = grpc.StatusCode.INTERNAL
    prefix = "Service internal error"


class NoSpaceError(InternalError):
    def __init__(self) -> None:
        super().__init__("No space left on device: WAL buffer size exceeds available disk space")


class StandInError(Exception):
    """Ends the process with exit code 1 and its message as the only line."""


# How the engine words the failures that are the caller's fault. The binding raises plain `Exception`, so the text is
# all there is to tell them from its own failures.
_CALLER_FAULTS = (
    "Vector dimension error",
    "Not existing vector name error",
    "Wrong usage of sparse vectors",
    "Wrong usage of multi vectors",
    "Validation",
    "No range index",
    "No appropriate index",
    "Payload type does not match",
    "No text index",
)
_MISSING_POINT = "No point with id"
_CLOSED = "Shard is not initialized"


def guarded(call: Callable[[], T]) -> T:
    """Runs a call into the engine, or a translation for it, and raises what went wrong as a `RequestError`."""
    try:
        return call()
    except (RequestError, StandInError):
        raise
    except (ValueError, OverflowError) as error:
        raise InvalidArgumentError(str(error)) from error
    except BaseException as error:
        if not _is_engine_failure(error):
            raise
        raise _from_engine(str(error)) from error


def _is_engine_failure(error: BaseException) -> bool:
    # Rust panics arrive as a BaseException of this module, ordinary failures as Exception itself.
    return type(error) is Exception or type(error).__module__ == "pyo3_runtime"


def _from_engine(text: str) -> RequestError:
    if text.startswith(_CALLER_FAULTS):
        return InvalidArgumentError(text)
    if text.startswith(_MISSING_POINT):
        return NotFoundError(text)
    if _CLOSED in text:
        return NotFoundError("the collection was deleted while the request ran")
    return InternalError(text)
