"""Options that several commands share."""

from typing import Annotated

import typer

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON and nothing else (shapes: docs/cli.md).")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Print the trace id too, on standard error.")]
Debug = Annotated[bool, typer.Option("--debug", help="Print the traceback of an error.")]
Project = Annotated[
    str | None,
    typer.Option(
        "--project",
        "-p",
        envvar="SCRISTILL_PROJECT",
        metavar="NAME|ID",
        help="Project; else the one named `default`, else the only one.",
    ),
]
AnyProject = Annotated[
    str | None,
    typer.Option("--project", "-p", envvar="SCRISTILL_PROJECT", metavar="NAME|ID", help="Only this project."),
]
Limit = Annotated[int, typer.Option("--limit", "-n", min=0, help="At most so many; 0 for all.")]
