"""`scristill search`."""

from enum import StrEnum
from typing import Annotated

import typer
from scristill.indexer.v1.search_service_pb2 import SearchMode, SearchResponse

from services.cli.client.facts import Facts
from services.cli.client.projects import Projects
from services.cli.documents import document
from services.cli.errors import ExitCode
from services.cli.options import AsJson, Debug, Project, Verbose
from services.cli.output import Mode, Output
from services.cli.render.hits import hit_lines
from services.cli.runner import Session, call


class Method(StrEnum):
    HYBRID = "hybrid"
    DENSE = "dense"
    SPARSE = "sparse"

    @property
    def number(self) -> SearchMode.ValueType:
        return SearchMode.Value(f"SEARCH_MODE_{self.name}")


def search(
    query: Annotated[str, typer.Argument(help="What to find, in any words.")],
    *,
    project: Project = None,
    method: Annotated[Method, typer.Option("--mode", help="By meaning and words, by meaning, or by words.")] = (
        Method.HYBRID
    ),
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, max=100, help="Hits to show.")] = 5,
    as_json: AsJson = False,
    verbose: Verbose = False,
    debug: Debug = False,
) -> None:
    """Search the facts of a project; shows the quote that supports each."""

    async def calls(session: Session) -> ExitCode:
        chosen = await Projects(session.connection).chosen(project)
        found = await Facts(session.connection).search(chosen.project_id, query, mode=method.number, limit=limit)
        session.output.document(
            {
                "query": query,
                "mode": method.value,
                "project_id": chosen.project_id,
                "trace_id": session.trace_id,
                **document(found),
            }
        )
        show(session.output, found)
        return ExitCode.OK

    call("search", Mode(json=as_json, verbose=verbose, debug=debug), calls)


def show(output: Output, found: SearchResponse) -> None:
    marked = not output.out.is_terminal or output.out.no_color
    for rank, hit in enumerate(found.hits, start=1):
        output.show(*hit_lines(rank, hit, marked=marked))
    if not found.hits:
        output.show("nothing found")
