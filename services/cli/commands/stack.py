"""`scristill up`, `down` and `status`: the local stack."""

import asyncio
import sys
import time
from typing import Annotated, Any

import typer

from deploy.local import stack
from deploy.local.process import State
from deploy.local.state import StackStatus
from services.cli import local
from services.cli.client.projects import Projects
from services.cli.client.sources import Sources
from services.cli.connection import Connection
from services.cli.errors import ExitCode, Unreachable, explain
from services.cli.options import AsJson, Debug, Verbose
from services.cli.output import Mode, Output
from services.cli.render import stack as render
from services.cli.runner import run
from services.shared.errors import RemoteError

START_SECONDS = 180.0


def up(
    foreground: Annotated[bool, typer.Option("--foreground", help="Stay, show the logs, stop at Ctrl-C.")] = False,
    as_json: AsJson = False,
    verbose: Verbose = False,
    debug: Debug = False,
) -> None:
    """Start the local stack: PostgreSQL, Valkey, Qdrant's engine and the four services."""

    def work(output: Output) -> ExitCode:
        if foreground:
            asyncio.run(stack.run(stack.Options.from_environment(terminal=sys.stderr if as_json else sys.stdout)))
            return ExitCode.OK
        current = start(output)
        output.document(stack_document(current))
        output.show(render.processes(current), f"ready, data and logs in {current.home}; `scristill down` stops it")
        return ExitCode.OK

    run(Mode(json=as_json, verbose=verbose, debug=debug), work)


def start(output: Output) -> StackStatus:
    """Starts the stack in the background, unless it runs; says what has become ready."""
    if stack.status(local.home()).running:
        return _await_other_start(output)
    announced: set[str] = set()

    def observe(seen: StackStatus) -> None:
        for process in seen.processes:
            if process.state in (State.READY, State.DONE) and process.name not in announced:
                announced.add(process.name)
                output.note(f"  {process.name:18} {process.state:6} {process.address}".rstrip())

    stack.detach(stack.Options.from_environment(observe=observe))
    return stack.status(local.home())


def _await_other_start(output: Output) -> StackStatus:
    """Of a stack that runs, or that somebody else is starting."""
    deadline = time.monotonic() + START_SECONDS
    while not (current := stack.status(local.home())).ready:
        if not current.running or time.monotonic() > deadline:
            raise Unreachable(f"the stack in {current.home} was being started, and did not become ready")
        time.sleep(0.3)
    output.note("the stack is up already")
    return current


def down(as_json: AsJson = False, verbose: Verbose = False, debug: Debug = False) -> None:
    """Stop the local stack. Its data stays."""

    def work(output: Output) -> ExitCode:
        home = local.home()
        stopped = stack.down(home)
        output.document({"stopped": stopped, "home": str(home.root)})
        output.show(f"stopped; data stays in {home.root}" if stopped else f"no stack is running in {home.root}")
        return ExitCode.OK

    run(Mode(json=as_json, verbose=verbose, debug=debug), work)


def status(as_json: AsJson = False, verbose: Verbose = False, debug: Debug = False) -> None:
    """Show what runs, where, and what is in it. Exit code 3 when nothing does."""

    def work(output: Output) -> ExitCode:
        current = stack.status(local.home())
        if not current.running and not local.addressed_elsewhere():
            output.document(stack_document(current))
            raise Unreachable(f"no stack is running in {current.home}: `scristill up`")
        counts, problem = asyncio.run(_counts())
        output.document({**stack_document(current), "counts": counts})
        if current.running:
            output.show(render.processes(current))
        output.show(render.counts_line(counts) if counts else problem)
        return ExitCode.OK if counts else ExitCode.UNREACHABLE

    run(Mode(json=as_json, verbose=verbose, debug=debug), work)


def stack_document(current: StackStatus) -> dict[str, Any]:
    return {
        "running": current.running,
        "ready": current.ready,
        "home": current.home,
        "memory_bytes": current.rss_bytes,
        "processes": [render.process_document(process) for process in current.processes],
    }


async def _counts() -> tuple[dict[str, int] | None, str]:
    """Or why there are none."""
    async with Connection(local.endpoints()) as connection:
        projects, sources = Projects(connection), Sources(connection)
        try:
            ids = [project.project_id async for project in projects.every()]
            totals = [(await projects.get(project_id)).source_count for project_id in ids]
            consistency = await sources.consistency()
        except RemoteError as error:
            return None, explain(error)
    return {
        "projects": len(ids),
        "sources": sum(totals),
        "open_sources": consistency.open_source_count,
        "facts": consistency.fact_count,
        "indexed": consistency.indexed_count,
        "pending_intents": consistency.pending_intent_count,
        "dead_letters": consistency.dead_letter_count,
    }, ""
