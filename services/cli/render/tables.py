"""Lists as tables: ruled lightly on a terminal, plain columns in a pipe."""

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime

from google.protobuf.timestamp_pb2 import Timestamp
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text
from scristill.extractor.v1.extraction_pb2 import Extraction
from scristill.extractor.v1.project_pb2 import Project
from scristill.extractor.v1.source_pb2 import Source, SourceState
from scristill.scheduler.v1.job_pb2 import Job, JobState

from services.cli.documents import enum_name
from services.cli.ingest.follow import reason_of
from services.cli.output import harmless
from services.cli.render.hits import name_of, place

NUMBERS = ("CHUNKS", "FACTS", "INDEXED", "PROGRESS", "ATTEMPT")
STATE_STYLES = {
    "SUCCEEDED": "green",
    "EXTRACTED": "green",
    "RUNNING": "cyan",
    "EXTRACTING": "cyan",
    "PARTIAL": "yellow",
    "SKIPPED": "yellow",
    "CANCELLED": "yellow",
    "FAILED": "red",
    "DEAD": "red",
}


def table(*columns: str, right: Iterable[str] = (), folded: Iterable[str] = ()) -> Table:
    """`right`: names of columns of numbers; `folded`: of those that give way where the terminal is narrow."""
    made = Table(box=None, padding=(0, 2, 0, 0), header_style="bold", pad_edge=False)
    for name in columns:
        made.add_column(name, justify="right" if name in right else "left", no_wrap=name not in folded, overflow="fold")
    return made


def projects(listed: Iterable[Project]) -> RenderableType:
    made = table("NAME", "TEMPLATE", "CREATED", "ID", folded=("NAME",))
    for project in listed:
        made.add_row(
            cell(project.display_name),
            project.schema.template or "-",
            moment(project.create_time),
            cell(project.project_id, "dim"),
        )
    return made


def sources(listed: Iterable[Source]) -> RenderableType:
    made = table("STATE", "CHUNKS", "FACTS", "INDEXED", "SOURCE", "REASON", right=NUMBERS, folded=("SOURCE", "REASON"))
    for source in listed:
        made.add_row(
            state(enum_name(SourceState.DESCRIPTOR, source.state)),
            f"{source.extracted_chunk_count}/{source.chunk_count}",
            f"{source.extraction_count:,}",
            f"{source.indexed_count:,}",
            cell(place(source.uri)),
            cell(reason_of(source) if source.state != SourceState.SOURCE_STATE_PENDING else ""),
        )
    return made


def facts(listed: Iterable[Extraction], *, uris: Mapping[str, str]) -> RenderableType:
    """`uris` by source id."""
    made = table("CATEGORY", "STATEMENT", "SPAN", "INDEXED", "SOURCE", folded=("STATEMENT", "SOURCE"))
    for fact in listed:
        made.add_row(
            cell(fact.category or "-"),
            cell(fact.statement),
            f"{fact.quote.start}-{fact.quote.end}",
            "yes" if fact.embedding_id else "no",
            cell(name_of(uris.get(fact.source_id, fact.source_id)), "dim"),
        )
    return made


def jobs(listed: Iterable[Job]) -> RenderableType:
    made = table(
        "STATE", "TYPE", "PROGRESS", "ATTEMPT", "CREATED", "ID", "LAST FAILURE", right=NUMBERS, folded=("LAST FAILURE",)
    )
    for job in listed:
        made.add_row(
            state(enum_name(JobState.DESCRIPTOR, job.state)),
            cell(job.type),
            progress(job),
            f"{job.attempt}/{job.max_attempts}",
            moment(job.create_time),
            cell(job.job_id, "dim"),
            cell(job.last_failure.message),
        )
    return made


def job_line(job: Job) -> Text:
    """One change, for a watch."""
    line = Text.assemble(moment(job.update_time), "  ")
    line.append_text(state(enum_name(JobState.DESCRIPTOR, job.state).ljust(9)))
    line.append(f"  {job.type}  {progress(job).rjust(9)}  ")
    line.append(job.job_id, "dim")
    if job.last_failure.message:
        line.append(f"  {harmless(job.last_failure.message)}", "red")
    return line


def progress(job: Job) -> str:
    """Workers need not report the last step; success says that it was made."""
    total = job.progress.total_count
    done = total if job.state == JobState.JOB_STATE_SUCCEEDED else job.progress.completed_count
    return f"{done}/{total}" if total else "-"


def state(name: str) -> Text:
    return Text(name, STATE_STYLES.get(name.strip(), ""))


def cell(text: str, style: str = "") -> Text:
    return Text(harmless(text), style)


def moment(time: Timestamp) -> str:
    """Local time to the second; a dash when unset."""
    if not time.seconds:
        return "-"
    local: datetime = time.ToDatetime(UTC).astimezone()
    return local.strftime("%Y-%m-%d %H:%M:%S")
