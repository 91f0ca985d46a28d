"""`scristill sources`."""

from enum import StrEnum
from typing import Annotated

import typer
from scristill.extractor.v1.source_pb2 import SourceState

from services.cli.client.projects import Projects
from services.cli.client.sources import Sources
from services.cli.documents import document
from services.cli.errors import ExitCode
from services.cli.options import AsJson, Debug, Limit, Project, Verbose
from services.cli.output import Mode
from services.cli.render import tables
from services.cli.runner import Session, call
from services.cli.streams import first

app = typer.Typer(help="Documents of a project and where they stand.", no_args_is_help=True)


class State(StrEnum):
    PENDING = "pending"
    EXTRACTING = "extracting"
    EXTRACTED = "extracted"
    PARTIAL = "partial"
    FAILED = "failed"
    SKIPPED = "skipped"

    @property
    def number(self) -> SourceState.ValueType:
        return SourceState.Value(f"SOURCE_STATE_{self.name}")


@app.command("list")
def list_sources(
    *,
    project: Project = None,
    state: Annotated[list[State] | None, typer.Option("--state", help="Only these states.")] = None,
    group: Annotated[list[str] | None, typer.Option("--group", help="Only these groups.")] = None,
    limit: Limit = 50,
    as_json: AsJson = False,
    verbose: Verbose = False,
    debug: Debug = False,
) -> None:
    """List sources, newest first."""

    async def calls(session: Session) -> ExitCode:
        chosen = await Projects(session.connection).chosen(project)
        states = [each.number for each in state or ()]
        every = Sources(session.connection).every(chosen.project_id, states=states, groups=group or ())
        listed = [source async for source in first(every, limit)]
        for source in listed:
            session.output.document(document(source))
        session.output.show(tables.sources(listed) if listed else "no sources")
        return ExitCode.OK

    call("sources list", Mode(json=as_json, verbose=verbose, debug=debug), calls)
