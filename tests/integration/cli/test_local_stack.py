"""The command and the demo on the real thing: engines and services that `scristill up` starts."""

import os
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from deploy.demo.run import CORPUS
from tests.support.command import Scristill, finished
from tests.support.local_stack import LocalStack, local_stack
from tests.support.waiting import eventually

pytestmark = pytest.mark.timeout(300)

DOCUMENTS = len(list(CORPUS.iterdir()))


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalStack]:
    elsewhere = {name: "" for name in os.environ if name.startswith(("SCRISTILL_", "OTEL_"))}
    with local_stack(tmp_path_factory.mktemp("a stack") / "home", elsewhere) as prepared:
        yield prepared


@pytest.fixture(scope="module")
async def real(home: LocalStack) -> AsyncIterator[Scristill]:
    """Up for the module, then down."""
    scristill = Scristill(environ=home.environ, within=240)
    up = await scristill("up")
    assert up.code == 0, up.stderr
    await home.ready()
    yield scristill
    assert (await scristill("down", "--json")).documents[0]["stopped"] is True
    assert (await scristill("status")).code == 3
    assert home.left() == []


async def demo(real: Scristill) -> tuple[int, str]:
    done = await finished(await real.launch(sys.executable, "-m", "deploy.demo.run"), within=real.within)
    return done.code, done.stdout + done.stderr


async def test_demo_holds_its_promises_and_again_when_repeated(real: Scristill) -> None:
    code, first = await demo(real)
    again_code, again = await demo(real)

    assert (code, again_code) == (0, 0), first + again
    assert f"{DOCUMENTS} paths: {DOCUMENTS} created" in first
    assert f"{DOCUMENTS} paths: 0 created, {DOCUMENTS} unchanged" in again
    for text in (first, again):
        assert text.count("ok    ") == 6
        assert "WRONG" not in text
        assert "extractor publish facts" in text
    # By now the last spans are exported too.
    assert "⇢ indexer indexer.apply_batch" in again


async def test_status_shows_every_process_and_what_is_in_the_stack(real: Scristill, home: LocalStack) -> None:
    await demo(real)

    text = await real("status")
    (document,) = (await real("status", "--json")).documents

    states = {process["name"]: process["state"] for process in document["processes"]}
    assert {states[name] for name in ("postgres", "valkey", "qdrant", "scheduler", "extractor")} == {"ready"}
    assert document["counts"]["sources"] == DOCUMENTS
    assert document["counts"]["facts"] == document["counts"]["indexed"] > 0
    assert f"127.0.0.1:{home.environ['EXTRACTOR_PORT']}" in text.stdout


async def test_second_up_leaves_the_stack_as_it_is(real: Scristill, home: LocalStack) -> None:
    before = home.status.pid

    again = await real("up")

    assert again.code == 0
    assert "up already" in again.stderr
    assert home.status.pid == before


async def test_lists_reach_over_pages(real: Scristill) -> None:
    await demo(real)

    facts = (await real("facts", "list", "--limit", 0, "--json")).documents
    some = (await real("facts", "list", "--limit", 7, "--json")).documents
    jobs = (await real("jobs", "list", "--limit", 0, "--json")).documents
    torvik = (await real("facts", "list", "--source", "corpus/torvik-bridge.md", "--limit", 0, "--json")).documents

    assert len({fact["extraction_id"] for fact in facts}) == len(facts) > 1000
    assert some == facts[:7]
    assert len(jobs) >= DOCUMENTS
    assert {fact["source_id"] for fact in torvik} < {fact["source_id"] for fact in facts}


async def test_trace_of_an_ingest_leads_to_its_job(real: Scristill, tmp_path: Path) -> None:
    page = tmp_path / "ship.md"
    page.write_text("The steamer Concordia was built in Bergen in 1907.\n")
    ingested = await real("ingest", page, "--project", "demo", "--follow", "--json")
    trace_id = ingested.documents[-1]["trace_id"]

    async def names() -> set[str]:
        traced = await real("trace", trace_id, "--json")
        return {name for tree in traced.documents for root in tree["roots"] for name in span_names(root)}

    async def told() -> bool:
        return {"scristill ingest", "job extract"} <= await names()

    assert await eventually(told, within=30)
    assert "scristill.llm_gateway.v1.LlmGatewayService/Generate" in await names()


def span_names(span: dict[str, Any]) -> Iterator[str]:
    yield span["name"]
    for child in span["children"]:
        yield from span_names(child)
