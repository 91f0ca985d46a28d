"""`python -m deploy.demo.run`: documents in, facts out, questions answered, promises verified.

Safe to run again: it uses the stack that runs and the project that exists. Exit code 1 when an answer is wrong or a
promise does not hold; the others are the command's (docs/cli.md).
"""

import asyncio
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from rich.padding import Padding
from rich.text import Text
from scristill.extractor.v1.extraction_pb2 import Extraction
from scristill.extractor.v1.project_pb2 import Project
from scristill.extractor.v1.source_pb2 import Source

from deploy.demo import checks, guide, story
from services.cli import local, telemetry
from services.cli.client.facts import Facts
from services.cli.client.jobs import Jobs
from services.cli.client.projects import Projects
from services.cli.client.sources import Sources
from services.cli.commands.ingest import Ingest
from services.cli.commands.search import show as show_hits
from services.cli.commands.stack import start
from services.cli.connection import Connection
from services.cli.errors import ExitCode
from services.cli.ingest.outcome import Fate
from services.cli.output import Mode, Output, harmless
from services.cli.render.hits import name_of
from services.cli.runner import Session, outcome

HERE = Path(__file__).parent
CORPUS = HERE / "corpus"
PROJECT = "demo"
QUESTIONS = 3
SAMPLED = (
    "torvik-bridge.md",
    "amsbury-glass-workshop.pdf",
    "fennick-library-annual-report.docx",
    "petrel-2-satellite.html",
    "yunxi-lake.md",
    "pamoja-stickers.md",
)
"""One of each format, one in Chinese, one with emoji and combining marks."""
TOLD = "torvik-bridge.md"
"""The document whose trace is shown."""
LINE = 100


def main() -> None:
    sys.exit(outcome(Mode(), demo))


def demo(output: Output) -> ExitCode:
    heading(output, "Stack")
    current = start(output)
    ready = sum(process.pid is not None for process in current.processes)
    output.show(f"{ready} processes, {current.rss_bytes / 1_000_000:,.0f} MB of memory, data in {current.home}")
    endpoints = local.endpoints(os.environ)
    with telemetry.traced("scristill demo", endpoint=endpoints.traces) as trace_id:
        ingested, project, changed = asyncio.run(ingest(output, endpoints, trace_id))
    answered = asyncio.run(examine(output, endpoints, project, changed=changed))
    heading(output, "Where it is")
    output.show(*guide.addresses(current), "")
    heading(output, "How to go on")
    output.show(*guide.next_steps(project, current))
    return ExitCode.OK if ingested and answered else ExitCode.FAILED


async def ingest(output: Output, endpoints: local.Endpoints, trace_id: str) -> tuple[bool, Project, bool]:
    """Whether all went well, the project, and whether anything was new."""
    async with Connection(endpoints) as connection:
        project, made = await Projects(connection).get_or_create(PROJECT)
        known = "made from the default template" if made else "known from before"
        output.show(f"project {project.display_name}, {known}")
        heading(output, f"Ingest of the {CORPUS.name}")
        session = Session(output=output, connection=connection, trace_id=trace_id)
        run = Ingest(session=session, project=project, group="demo", follow=True)
        code = await run.run([CORPUS])
        return code is ExitCode.OK, project, run.tally.counts[Fate.CREATED] > 0


async def examine(output: Output, endpoints: local.Endpoints, project: Project, *, changed: bool) -> bool:
    """Shows facts, answers and a trace; whether all answers are right and all promises hold."""
    async with Connection(endpoints) as connection:
        facts, sources = Facts(connection), Sources(connection)
        by_name = {name_of(source.uri): source async for source in sources.every(project.project_id)}
        heading(output, "Some facts")
        for name in SAMPLED:
            sample = [fact async for fact in facts.every(project.project_id, source_id=by_name[name].source_id)]
            output.show(*fact_lines(name, sample))
        heading(output, "Questions")
        answers = [await ask(output, facts, project, query) for query in checks.queries()[:QUESTIONS]]
        heading(output, "Promises")
        promises = await checks.invariants(project.project_id, facts=facts, sources=sources)
        for promise in promises:
            output.show(verdict(promise.text, holds=promise.holds))
        await tell(output, Jobs(connection), by_name[TOLD], changed=changed)
    return all(answers) and all(promise.holds for promise in promises)


async def ask(output: Output, facts: Facts, project: Project, query: checks.Query) -> bool:
    started = time.perf_counter()
    found = await facts.search(project.project_id, query.question, limit=1)
    elapsed = 1000 * (time.perf_counter() - started)
    right = query.answered_by(found)
    output.show(Text(query.question, "bold"))
    show_hits(output, found)
    expected = "the right one" if right else f"expected {query.source}: {query.quote_contains}"
    output.show(verdict(f"{expected}, {elapsed:.0f} ms", holds=right), "")
    return right


async def tell(output: Output, jobs: Jobs, source: Source, *, changed: bool) -> None:
    heading(output, f"One trace: {TOLD} from CreateSources to the index")
    job = await jobs.get(source.job_id)
    output.show(*await story.of_job(local.home(), job, wait=changed), "")


def fact_lines(name: str, sample: Sequence[Extraction]) -> list[Text | Padding]:
    """The fact with the longest statement that fits a line says most."""
    fitting = [fact for fact in sample if len(fact.statement) <= LINE] or list(sample)
    best = max(fitting, key=lambda fact: len(fact.statement), default=None)
    head = Text.assemble((name, "cyan"), (f"  {len(sample)} facts", "dim"))
    if best is None:
        return [head]
    span = Text(f"  [{best.quote.start}, {best.quote.end})", "dim")
    return [head, Padding(Text.assemble(harmless(best.statement), span), (0, 0, 0, 2))]


def verdict(text: str, *, holds: bool) -> Text:
    return Text.assemble(("ok    " if holds else "WRONG ", "green" if holds else "bold red"), text)


def heading(output: Output, text: str) -> None:
    output.show("", Text(text, "bold underline" if output.out.is_terminal else ""))


if __name__ == "__main__":
    main()
