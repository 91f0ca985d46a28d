"""`scristill facts`."""

from typing import Annotated

import typer
from scristill.extractor.v1.extraction_pb2 import Extraction

from services.cli.client.facts import Facts
from services.cli.client.projects import Projects
from services.cli.client.sources import Sources
from services.cli.connection import PAGE_SIZE
from services.cli.documents import document
from services.cli.errors import ExitCode
from services.cli.options import AsJson, Debug, Limit, Project, Verbose
from services.cli.output import Mode
from services.cli.render import tables
from services.cli.runner import Session, call
from services.cli.streams import first

app = typer.Typer(help="Facts with their verified quotes.", no_args_is_help=True)


@app.command("list")
def list_facts(
    *,
    project: Project = None,
    source: Annotated[str, typer.Option("--source", metavar="ID|URI|PATH", help="Only of this source.")] = "",
    limit: Limit = 20,
    as_json: AsJson = False,
    verbose: Verbose = False,
    debug: Debug = False,
) -> None:
    """List facts by source and position."""

    async def calls(session: Session) -> ExitCode:
        chosen = await Projects(session.connection).chosen(project)
        source_id = await Sources(session.connection).id_of(chosen.project_id, source) if source else ""
        page_size = min(limit or PAGE_SIZE, PAGE_SIZE)
        every = Facts(session.connection).every(chosen.project_id, source_id=source_id, page_size=page_size)
        shown: list[Extraction] = []
        async for fact in first(every, limit):
            if session.output.mode.json:
                session.output.document(document(fact))
            else:
                shown.append(fact)
        if shown:
            uris = await Sources(session.connection).uris(chosen.project_id, {fact.source_id for fact in shown})
            session.output.show(tables.facts(shown, uris=uris))
        else:
            session.output.show("no facts")
        return ExitCode.OK

    call("facts list", Mode(json=as_json, verbose=verbose, debug=debug), calls)
