"""`scristill project`."""

from typing import Annotated

import typer

from services.cli.client.projects import DEFAULT, Projects
from services.cli.documents import document
from services.cli.errors import ExitCode
from services.cli.options import AsJson, Debug, Verbose
from services.cli.output import Mode, harmless
from services.cli.render import tables
from services.cli.runner import Session, call

app = typer.Typer(help="Projects: what to extract, and the sources it is extracted from.", no_args_is_help=True)


@app.command()
def create(
    name: Annotated[str, typer.Argument(help="Unique name.")],
    *,
    template: Annotated[str, typer.Option("--template", help="Built-in schema to start from.")] = DEFAULT,
    description: Annotated[str, typer.Option("--description", help="What it is about.")] = "",
    as_json: AsJson = False,
    verbose: Verbose = False,
    debug: Debug = False,
) -> None:
    """Create a project."""

    async def calls(session: Session) -> ExitCode:
        project = await Projects(session.connection).create(name, template=template, description=description)
        session.output.document(document(project))
        session.output.show(f"created project {harmless(project.display_name)} ({project.project_id})")
        return ExitCode.OK

    call("project create", Mode(json=as_json, verbose=verbose, debug=debug), calls)


@app.command("list")
def list_projects(as_json: AsJson = False, verbose: Verbose = False, debug: Debug = False) -> None:
    """List the projects, newest first."""

    async def calls(session: Session) -> ExitCode:
        listed = [project async for project in Projects(session.connection).every()]
        for project in listed:
            session.output.document(document(project))
        session.output.show(tables.projects(listed) if listed else "no projects yet: scristill project create NAME")
        return ExitCode.OK

    call("project list", Mode(json=as_json, verbose=verbose, debug=debug), calls)
