"""Why a command ends, and the exit code that says so to a script.

CommandError    1  the work was done and something in it failed
├── Usage       2  the command makes no sense as given
├── Unreachable 3  no answer from the stack
├── Missing     4  what the command names does not exist
└── Refused     5  the stack says no: invalid, or not in this state
"""

from enum import IntEnum
from typing import ClassVar

from services.shared.errors import Code, Reason, RemoteError


class ExitCode(IntEnum):
    OK = 0
    FAILED = 1
    USAGE = 2
    UNREACHABLE = 3
    NOT_FOUND = 4
    REFUSED = 5
    INTERRUPTED = 130
    """128 + SIGINT, as shells report it."""
    PIPE_CLOSED = 141
    """128 + SIGPIPE: the reader of the output went away."""


class CommandError(Exception):
    """Its text is the one line that the user sees."""

    exit_code: ClassVar[ExitCode] = ExitCode.FAILED


class Usage(CommandError):
    exit_code = ExitCode.USAGE


class Unreachable(CommandError):
    exit_code = ExitCode.UNREACHABLE


class Missing(CommandError):
    exit_code = ExitCode.NOT_FOUND


class Refused(CommandError):
    exit_code = ExitCode.REFUSED


_BY_CODE: dict[Code, type[CommandError]] = {
    Code.UNAVAILABLE: Unreachable,
    Code.DEADLINE_EXCEEDED: Unreachable,
    Code.NOT_FOUND: Missing,
    Code.INVALID_ARGUMENT: Refused,
    Code.ALREADY_EXISTS: Refused,
    Code.PERMISSION_DENIED: Refused,
    Code.UNAUTHENTICATED: Refused,
    Code.RESOURCE_EXHAUSTED: Refused,
    Code.FAILED_PRECONDITION: Refused,
    Code.ABORTED: Refused,
    Code.OUT_OF_RANGE: Refused,
    Code.UNIMPLEMENTED: Refused,
}


def of_remote(error: RemoteError) -> CommandError:
    return _BY_CODE.get(error.code, CommandError)(explain(error))


def explain(error: RemoteError) -> str:
    """One line for a person. `peer` is the service with its address."""
    if error.code is Code.UNAVAILABLE and error.reason is Reason.UNSPECIFIED:
        return f"cannot reach the {error.peer}: is the stack up? (`scristill up`)"
    if error.code is Code.DEADLINE_EXCEEDED and error.reason is Reason.UNSPECIFIED:
        return f"no answer in time from the {error.peer}"
    violations = "; ".join(f"{each.field}: {each.description}" for each in error.field_violations)
    incident = error.metadata.get("incident_id")
    text = violations or error.message or error.code.name
    return f"{error.peer}: {text}" + (f" (incident {incident})" if incident else "")
