"""`scristill ingest` against servers that play the contract."""

import asyncio
import signal
from pathlib import Path

import pytest
from scristill.extractor.v1.source_pb2 import SourceState

from services.shared.errors import InvalidRequest, ResourceExhausted
from tests.integration.cli.contract import Contract
from tests.support.command import Scristill, documents, finished
from tests.support.waiting import eventually


def fates(lines: list[dict[str, object]]) -> dict[str, object]:
    return {Path(str(line["path"])).name: line["fate"] for line in lines if line["type"] == "path"}


async def test_every_path_is_accounted_for_and_all_is_indexed_at_the_end(
    scristill: Scristill, contract: Contract, tmp_path: Path
) -> None:
    docs = documents(tmp_path / "docs", a="One.\nTwo.", empty="", binary=b"\x00\x01", bad="POISON")
    (docs / "broken").symlink_to("nowhere")

    done = await scristill("ingest", docs, tmp_path / "absent", "--follow", "--json")

    assert done.code == 1
    assert fates(done.documents) == {
        "a": "created",
        "empty": "skipped",
        "binary": "created",
        "bad": "created",
        "broken": "skipped",
        "absent": "failed",
    }
    summary = done.documents[-1]
    assert summary["type"] == "summary"
    assert summary["complete"]
    assert summary["result"]["states"] == {"EXTRACTED": 1, "SKIPPED": 1, "FAILED": 1}
    assert summary["result"]["fact_count"] == 2
    exceptions = {line["uri"]: line["message"] for line in done.documents if line["type"] == "source"}
    assert exceptions == {(docs / "binary").as_uri(): "not text", (docs / "bad").as_uri(): "damaged"}


async def test_people_see_a_line_per_exception_and_a_summary(scristill: Scristill, tmp_path: Path) -> None:
    docs = documents(tmp_path / "docs", a="One.", empty="", bad="POISON")

    done = await scristill("ingest", docs, "--follow")

    assert done.code == 1
    assert f"skipped  {docs}/empty  the file is empty" in done.stdout
    assert f"failed   {docs}/bad  damaged" in done.stdout
    assert "3 paths: 2 created, 0 unchanged, 1 skipped, 0 failed" in done.stdout
    assert "2 sources: 1 extracted, 1 failed; 4 chunks, 1 facts, 1 indexed" in done.stdout
    assert "sources 2/2" in done.stderr


async def test_without_a_project_the_default_one_is_made_and_found_again(
    scristill: Scristill, contract: Contract, tmp_path: Path
) -> None:
    docs = documents(tmp_path / "docs", a="One.")

    first = await scristill("ingest", docs, "--follow", "--json")
    again = await scristill("ingest", docs, "--follow", "--json")

    assert [project.display_name for project in contract.projects.values()] == ["default"]
    assert (first.code, again.code) == (0, 0)
    assert fates(again.documents) == {"a": "unchanged"}
    assert again.documents[-1]["result"]["fact_count"] == 1


async def test_named_project_is_not_made(scristill: Scristill, tmp_path: Path) -> None:
    done = await scristill("ingest", documents(tmp_path / "docs", a="One."), "--project", "typo")

    assert done.code == 4
    assert done.stderr == "scristill: there is no project 'typo' (`scristill project list`)\n"


async def test_many_files_go_in_batches_and_large_ones_by_stream(
    scristill: Scristill, contract: Contract, tmp_path: Path
) -> None:
    docs = documents(tmp_path / "docs", **{f"{index:03}": f"Fact {index}." for index in range(450)})
    (docs / "large").write_bytes(b"x" * (5 * 1024 * 1024))
    (docs / "too_large").write_bytes(b"x" * 7_000_000)

    done = await scristill("ingest", docs, "--group", "many", "--json")

    assert done.code == 1
    assert sorted(contract.batches) == [50, 200, 200]
    assert contract.uploads == [[1024 * 1024] * 5]
    assert {source.group for source in contract.sources.values()} == {"many"}
    refused = [line for line in done.documents if line.get("fate") == "failed"]
    assert [(Path(line["path"]).name, line["reason"]) for line in refused] == [("too_large", "larger than allowed")]


async def test_overload_is_waited_out(scristill: Scristill, contract: Contract, tmp_path: Path) -> None:
    contract.refusals = [ResourceExhausted.of("server", 1, "busy")]

    done = await scristill("ingest", documents(tmp_path / "docs", a="One."), "--json")

    assert done.code == 0
    assert fates(done.documents) == {"a": "created"}


async def test_batch_that_is_refused_fails_its_paths_with_the_reason(
    scristill: Scristill, contract: Contract, tmp_path: Path
) -> None:
    contract.refusals = [InvalidRequest.of("sources[0].spec.uri", "must not be odd")]

    done = await scristill("ingest", documents(tmp_path / "docs", a="One."), "--json")

    assert done.code == 1
    assert "sources[0].spec.uri: must not be odd" in done.documents[0]["reason"]


async def test_restart_of_the_services_in_mid_ingest_loses_nothing(
    scristill: Scristill, contract: Contract, tmp_path: Path
) -> None:
    contract.working.clear()
    docs = documents(tmp_path / "docs", a="One.", b="Two.")
    process = await scristill.start("ingest", docs, "--follow", "--json")
    await eventually(lambda: len(contract.watch_tokens) == 1 and len(contract.jobs) == 2, within=20)

    await contract.stop()
    contract.working.set()
    await eventually(lambda: len(contract.facts) == 2)
    await contract.start()

    done = await finished(process)
    assert done.code == 0, done.stderr
    assert done.documents[-1]["result"]["fact_count"] == 2


async def test_drained_watch_goes_on_where_it_was(scristill: Scristill, contract: Contract, tmp_path: Path) -> None:
    contract.working.clear()
    process = await scristill.start("ingest", documents(tmp_path / "docs", a="One."), "--follow", "--json")
    await eventually(lambda: len(contract.watch_tokens) == 1 and len(contract.jobs) == 1, within=20)

    await contract.drain_watches()
    await eventually(lambda: len(contract.watch_tokens) == 2)
    contract.working.set()

    done = await finished(process)
    assert done.code == 0
    assert contract.watch_tokens[1] == "1"
    progress = [line for line in done.documents if line["type"] == "progress"]
    assert progress[-1]["chunk_done"] == 2


async def test_follow_waits_until_the_index_has_everything(
    scristill: Scristill, contract: Contract, tmp_path: Path
) -> None:
    contract.pending_intents = 1
    process = await scristill.start("ingest", documents(tmp_path / "docs", a="One."), "--follow", "--json")
    await eventually(lambda: len(contract.facts) == 1, within=20)
    done = asyncio.create_task(finished(process))
    await asyncio.sleep(1)
    assert not done.done()

    contract.pending_intents = 0

    assert (await done).code == 0


async def test_interrupt_leaves_the_ingest_running_and_tells_the_way_back(
    scristill: Scristill, contract: Contract, tmp_path: Path
) -> None:
    contract.working.clear()
    docs = documents(tmp_path / "my docs", a="One.")
    process = await scristill.start("ingest", docs, "--follow")
    # The stack has the document before the command knows.
    async with asyncio.timeout(20):
        assert b"sources 0/1" in await process.stderr.readline()

    process.send_signal(signal.SIGINT)

    done = await finished(process)
    assert done.code == 130
    assert f"scristill ingest '{docs}' --project default --follow" in done.stderr
    assert "1 paths: 1 created" in done.stdout
    assert "Traceback" not in done.stderr
    assert [source.state for source in contract.sources.values()] == [SourceState.SOURCE_STATE_PENDING]


@pytest.mark.parametrize("watch", ["in time", "late"])
async def test_source_whose_job_died_ends_the_wait_as_failed(
    scristill: Scristill, contract: Contract, tmp_path: Path, watch: str
) -> None:
    """Also when the job was dead before its watch had opened."""
    contract.watches_open_late = watch == "late"
    docs = documents(tmp_path / "docs", a="One.", lost="TWICE")

    done = await scristill("ingest", docs, "--follow")

    assert done.code == 1
    assert f"{docs}/lost  its job ended without success" in done.stdout


async def test_ingest_sends_its_trace_and_prints_it(scristill: Scristill, contract: Contract, tmp_path: Path) -> None:
    done = await scristill("ingest", documents(tmp_path / "docs", a="One."), "--json", "--verbose")

    trace_id = done.documents[-1]["trace_id"]
    assert [each.split("-")[1] for each in contract.traceparents] == [trace_id]
    assert f"trace: {trace_id}" in done.stderr
