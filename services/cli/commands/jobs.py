"""`scristill jobs`."""

from enum import StrEnum
from typing import Annotated

import typer
from scristill.scheduler.v1.job_pb2 import Job, JobState
from scristill.scheduler.v1.scheduler_service_pb2 import JobFilter

from services.cli.client.jobs import TERMINAL, Jobs
from services.cli.client.projects import Projects
from services.cli.documents import document
from services.cli.errors import ExitCode, Missing
from services.cli.options import AnyProject, AsJson, Debug, Limit, Verbose
from services.cli.output import Mode, Output
from services.cli.render import tables
from services.cli.runner import Session, call
from services.cli.streams import first

app = typer.Typer(help="Durable work: extraction of sources, and what else runs.", no_args_is_help=True)


class State(StrEnum):
    PENDING = "pending"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    DEAD = "dead"

    @property
    def number(self) -> JobState.ValueType:
        return JobState.Value(f"JOB_STATE_{self.name}")


States = Annotated[list[State] | None, typer.Option("--state", help="Only these states.")]
Types = Annotated[list[str] | None, typer.Option("--type", help="Only these types, for example `extract`.")]


@app.command("list")
def list_jobs(
    *,
    project: AnyProject = None,
    state: States = None,
    job_type: Types = None,
    limit: Limit = 50,
    as_json: AsJson = False,
    verbose: Verbose = False,
    debug: Debug = False,
) -> None:
    """List jobs, newest first."""

    async def calls(session: Session) -> ExitCode:
        wanted = await _filter(session, project=project, state=state, job_type=job_type)
        listed = [job async for job in first(Jobs(session.connection).every(wanted), limit)]
        for job in listed:
            session.output.document(document(job))
        session.output.show(tables.jobs(listed) if listed else "no jobs")
        return ExitCode.OK

    call("jobs list", Mode(json=as_json, verbose=verbose, debug=debug), calls)


@app.command()
def watch(
    job_ids: Annotated[list[str] | None, typer.Argument(metavar="JOB_ID", help="Until these have ended.")] = None,
    *,
    project: AnyProject = None,
    state: States = None,
    job_type: Types = None,
    as_json: AsJson = False,
    verbose: Verbose = False,
    debug: Debug = False,
) -> None:
    """Print each change of jobs as it happens; without ids, until Ctrl-C.

    With ids: exit code 0 when all of them have succeeded, 1 when one has not.
    """

    async def calls(session: Session) -> ExitCode:
        if job_ids:
            return await _watch_these(session, set(job_ids))
        wanted = await _filter(session, project=project, state=state, job_type=job_type)
        async for job in Jobs(session.connection).watch(wanted):
            _print(session.output, job)
        return ExitCode.OK

    call("jobs watch", Mode(json=as_json, verbose=verbose, debug=debug), calls)


@app.command()
def cancel(
    job_ids: Annotated[list[str], typer.Argument(metavar="JOB_ID", help="Jobs to end.")],
    *,
    message: Annotated[str, typer.Option("--message", "-m", help="Why, for the record.")] = "",
    keep_children: Annotated[bool, typer.Option("--keep-children", help="Leave their descendants alone.")] = False,
    as_json: AsJson = False,
    verbose: Verbose = False,
    debug: Debug = False,
) -> None:
    """Ask for the end of jobs and their descendants."""

    async def calls(session: Session) -> ExitCode:
        jobs = Jobs(session.connection)
        for job_id in job_ids:
            answer = await jobs.cancel(job_id, message=message, keep_children=keep_children)
            session.output.document({**document(answer.job), "affected_count": answer.affected_count})
            session.output.show(tables.job_line(answer.job))
        return ExitCode.OK

    call("jobs cancel", Mode(json=as_json, verbose=verbose, debug=debug), calls)


async def _filter(
    session: Session, *, project: str | None, state: list[State] | None, job_type: list[str] | None
) -> JobFilter:
    chosen = await Projects(session.connection).get(project) if project else None
    return JobFilter(
        project_ids=[chosen.project_id] if chosen else [],
        states=[each.number for each in state or ()],
        types=job_type or (),
    )


async def _watch_these(session: Session, job_ids: set[str]) -> ExitCode:
    """Lists first and watches from there, so that no change falls between."""
    jobs = Jobs(session.connection)
    wanted = JobFilter(job_ids=sorted(job_ids))
    page = await jobs.page(wanted)
    latest = {job.job_id: job for job in page.jobs}
    if unknown := job_ids - latest.keys():
        raise Missing(f"there is no job {min(unknown)}")
    for job in latest.values():
        _print(session.output, job)
    if not _ended(latest):
        async for job in jobs.watch(wanted, resume_token=page.resume_token):
            latest[job.job_id] = job
            _print(session.output, job)
            if _ended(latest):
                break
    succeeded = all(job.state == JobState.JOB_STATE_SUCCEEDED for job in latest.values())
    return ExitCode.OK if succeeded else ExitCode.FAILED


def _ended(latest: dict[str, Job]) -> bool:
    return all(job.state in TERMINAL for job in latest.values())


def _print(output: Output, job: Job) -> None:
    output.document(document(job))
    output.show(tables.job_line(job))
