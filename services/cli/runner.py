"""Runs one command: an event loop where it needs one, and an exit code whatever happens."""

import asyncio
import os
import sys
import traceback
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import NoReturn, cast

import typer

from deploy.local.errors import StackError
from services.cli import errors, local, telemetry
from services.cli.connection import Connection
from services.cli.errors import CommandError, ExitCode
from services.cli.output import Mode, Output
from services.shared.errors import RemoteError


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """What a command that calls the services works with."""

    output: Output
    connection: Connection
    trace_id: str


Calls = Callable[[Session], Awaitable[ExitCode]]


def call(name: str, mode: Mode, calls: Calls) -> NoReturn:
    """Runs a command that calls the services, as the root span of a trace of its own."""

    def work(output: Output) -> ExitCode:
        endpoints = local.endpoints()
        with telemetry.traced(f"scristill {name}", endpoint=endpoints.traces) as trace_id:
            return asyncio.run(_connected(output, endpoints, trace_id, calls))

    run(mode, work)


def run(mode: Mode, work: Callable[[Output], ExitCode]) -> NoReturn:
    """Runs any command."""
    raise typer.Exit(outcome(mode, work))


def outcome(mode: Mode, work: Callable[[Output], ExitCode]) -> ExitCode:
    """Of any work; one line on standard error when it fails."""
    output = Output(mode)
    try:
        return work(output)
    except BaseException as error:  # noqa: BLE001, each is mapped to an exit code
        return _explain(innermost(error), output)


async def _connected(output: Output, endpoints: local.Endpoints, trace_id: str, calls: Calls) -> ExitCode:
    async with Connection(endpoints) as connection:
        code = await calls(Session(output=output, connection=connection, trace_id=trace_id))
        output.detail(f"trace: {trace_id}")
        return code


def innermost(error: BaseException) -> BaseException:
    """The first error of a group: task groups wrap even a single one."""
    if not isinstance(error, BaseExceptionGroup):
        return error
    return innermost(cast("BaseExceptionGroup[BaseException]", error).exceptions[0])


def _explain(error: BaseException, output: Output) -> ExitCode:
    if output.mode.debug:
        traceback.print_exception(error)
    match error:
        case CommandError():
            code, text = error.exit_code, str(error)
        case RemoteError():
            command_error = errors.of_remote(error)
            code, text = command_error.exit_code, str(command_error)
        case StackError():
            code, text = ExitCode.FAILED, str(error)
        case KeyboardInterrupt():
            code, text = ExitCode.INTERRUPTED, ""
        case BrokenPipeError():
            _drop_output()
            code, text = ExitCode.PIPE_CLOSED, ""
        case _:
            code, text = ExitCode.FAILED, f"unexpected {type(error).__name__}: {error} (--debug shows where)"
    if text:
        output.note(f"scristill: {text}")
    return code


def _drop_output() -> None:
    """So that the interpreter does not complain when it flushes at its end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
