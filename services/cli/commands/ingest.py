"""`scristill ingest`."""

import asyncio
import shlex
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated

import typer
from scristill.extractor.v1.project_pb2 import Project as ProjectMessage

from services.cli.client.jobs import Jobs
from services.cli.client.projects import Projects
from services.cli.client.sources import Sources
from services.cli.errors import ExitCode
from services.cli.ingest.collect import collect
from services.cli.ingest.follow import Follower, Progress, Result, result_of
from services.cli.ingest.outcome import Fate, Outcome, Tally
from services.cli.ingest.submit import Submission
from services.cli.options import AsJson, Debug, Project, Verbose
from services.cli.output import Mode, Output
from services.cli.render import ingest as render
from services.cli.runner import Session, call


def ingest(
    paths: Annotated[list[Path], typer.Argument(help="Files and directories.", metavar="PATH")],
    *,
    project: Project = None,
    group: Annotated[str, typer.Option("--group", help="Group of the sources, for filters.")] = "",
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Wait until all of it is indexed.")] = False,
    as_json: AsJson = False,
    verbose: Verbose = False,
    debug: Debug = False,
) -> None:
    """Send files and directories to be extracted.

    Directories are walked; hidden entries are left out unless named. What the stack has already is not sent to a
    model again. Exit code 1 when a path or a source failed.
    """

    async def calls(session: Session) -> ExitCode:
        chosen = await Projects(session.connection).chosen_or_first(project)
        return await Ingest(session=session, project=chosen, group=group, follow=follow).run(paths)

    call("ingest", Mode(json=as_json, verbose=verbose, debug=debug), calls)


class Ingest:
    def __init__(self, *, session: Session, project: ProjectMessage, group: str, follow: bool) -> None:
        self._session = session
        self._project = project
        self._group = group
        self._follow = follow
        self._sources = Sources(session.connection)
        self.tally = Tally()
        self.result: Result | None = None
        """With `follow`, once all of it is done."""

    async def run(self, paths: Sequence[Path]) -> ExitCode:
        started = time.monotonic()
        output = self._session.output
        try:
            await (self._follow_through(paths) if self._follow else self._submit(paths))
        except asyncio.CancelledError:
            output.note(self._way_back(paths))
            raise
        finally:
            self._summarise(output, seconds=time.monotonic() - started)
        failed = self.tally.counts[Fate.FAILED] or (self.result is not None and self.result.failed)
        return ExitCode.FAILED if failed else ExitCode.OK

    async def _submit(self, paths: Sequence[Path]) -> None:
        submission = Submission(
            sources=self._sources, project_id=self._project.project_id, group=self._group, report=self._report
        )
        await submission.run(collect(paths))
        self.tally.complete = True

    async def _follow_through(self, paths: Sequence[Path]) -> None:
        with render.display(self._session.output) as display:
            await self._submit_and_watch(paths, display.update)
        listed = self._sources.every(self._project.project_id)
        self.result = await result_of(self.tally.accepted, listed)

    async def _submit_and_watch(self, paths: Sequence[Path], observe: Callable[[Progress], None]) -> None:
        follower = Follower(
            sources=self._sources,
            jobs=Jobs(self._session.connection),
            project_id=self._project.project_id,
            tally=self.tally,
            observe=observe,
        )
        await follower.begin()
        async with asyncio.TaskGroup() as group:
            group.create_task(follower.run(), name="follow")
            await self._submit(paths)

    def _report(self, outcome: Outcome) -> None:
        self.tally.add(outcome)
        self._session.output.document(render.outcome_document(outcome))

    def _summarise(self, output: Output, *, seconds: float) -> None:
        output.show(*render.exception_lines(self.tally, self.result), render.tally_line(self.tally))
        if self.result is not None:
            output.show(render.result_line(self.result, seconds=seconds))
            for document in render.source_documents(self.result):
                output.document(document)
        elif self.tally.complete and self.tally.counts[Fate.CREATED]:
            output.show("extraction goes on in the stack: `scristill jobs watch` shows it, --follow waits for it")
        output.document(
            render.summary_document(
                self.tally,
                self.result,
                project_id=self._project.project_id,
                trace_id=self._session.trace_id,
                seconds=round(seconds, 3),
            )
        )

    def _way_back(self, paths: Sequence[Path]) -> str:
        group = ["--group", self._group] if self._group else []
        again = ["scristill", "ingest", *map(str, paths), "--project", self._project.display_name, *group, "--follow"]
        return (
            "interrupted: what was sent goes on in the stack. To send the rest and watch again, nothing twice:\n"
            f"  {shlex.join(again)}"
        )
