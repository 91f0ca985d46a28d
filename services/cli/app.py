"""All commands of `scristill`."""

from typing import Annotated

import typer

from services.cli.commands import facts, ingest, jobs, projects, search, sources, stack, trace
from services.cli.version import suite_version

app = typer.Typer(
    name="scristill",
    help="Distils documents into grounded, searchable facts.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"scristill {suite_version()}")
        raise typer.Exit


@app.callback()
def program(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", is_eager=True, callback=_version)
    ] = False,
) -> None:
    """Distils documents into grounded, searchable facts."""


app.command()(stack.up)
app.command()(stack.down)
app.command()(stack.status)
app.add_typer(projects.app, name="project")
app.command()(ingest.ingest)
app.add_typer(jobs.app, name="jobs")
app.add_typer(facts.app, name="facts")
app.command()(search.search)
app.add_typer(sources.app, name="sources")
app.command()(trace.trace)
