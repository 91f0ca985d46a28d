"""`scristill trace`."""

from collections.abc import Sequence
from typing import Annotated

import typer

from deploy.local.home import Home
from deploy.local.traces.reader import Node, read_trace, recent_traces
from services.cli import local
from services.cli.errors import ExitCode, Missing, Usage
from services.cli.options import AsJson, Debug, Verbose
from services.cli.output import Mode, Output
from services.cli.render import traces as render
from services.cli.runner import run

RECENT = 1000


def trace(
    trace_id: Annotated[str, typer.Argument(help="As printed by --verbose and --json.", metavar="TRACE_ID")] = "",
    *,
    last: Annotated[bool, typer.Option("--last", help="The trace of the last command that made one.")] = False,
    every: Annotated[bool, typer.Option("--all", help="Show also what is many times the same.")] = False,
    as_json: AsJson = False,
    verbose: Verbose = False,
    debug: Debug = False,
) -> None:
    """Show a trace of the local stack as a tree, with the traces of the jobs that it led to."""

    def work(output: Output) -> ExitCode:
        if bool(trace_id) == last:
            raise Usage("give a trace id or --last")
        home = local.home()
        chosen = trace_id or last_trace(home)
        roots = stored(home, chosen)
        output.document({"trace_id": chosen, "roots": render.span_documents(roots)})
        output.show(f"trace {chosen}", *render.tree(roots, alike=0 if every else 3))
        return ExitCode.OK

    run(Mode(json=as_json, verbose=verbose, debug=debug), work)


def stored(home: Home, trace_id: str) -> Sequence[Node]:
    try:
        roots = read_trace(home.traces, trace_id.lower())
    except ValueError as error:
        raise Usage(str(error)) from error
    if not roots:
        raise Missing(f"no spans of trace {trace_id} in {home.traces}: the local stack keeps the newest only")
    return roots


def last_trace(home: Home) -> str:
    """Of a command of this program, whatever else goes on in the stack."""
    for span in recent_traces(home.traces, limit=RECENT):
        if span.service == "scristill-cli":
            return span.trace_id
    raise Missing(f"no command has left a trace in {home.traces}")
