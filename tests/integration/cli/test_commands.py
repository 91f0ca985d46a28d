"""The other commands against servers that play the contract."""

import asyncio
import signal
from pathlib import Path

from scristill.scheduler.v1.job_pb2 import Job, JobState

from tests.integration.cli.contract import Contract
from tests.support.command import Scristill, documents, finished
from tests.support.waiting import eventually


async def ingest(scristill: Scristill, directory: Path, **contents: str) -> None:
    documents(directory, **contents)
    assert (await scristill("ingest", directory, "--follow", "--json")).code == 0


async def test_project_is_created_once(scristill: Scristill) -> None:
    first = await scristill("project", "create", "notes", "--json")
    again = await scristill("project", "create", "notes")
    listed = await scristill("project", "list")

    assert first.code == 0
    assert first.documents[0]["display_name"] == "notes"
    assert again.code == 5
    assert "exists already" in again.stderr
    assert listed.stdout.splitlines()[1].split()[:2] == ["notes", "default"]


async def test_name_that_breaks_the_contract_is_refused_by_field(scristill: Scristill) -> None:
    done = await scristill("project", "create", "")

    assert done.code == 5
    assert "project.display_name" in done.stderr
    assert len(done.stderr.splitlines()) == 1


async def test_without_project_the_only_one_is_meant_and_of_several_none(
    scristill: Scristill, contract: Contract
) -> None:
    none = await scristill("facts", "list")
    contract.add_project("one")
    only = await scristill("facts", "list", "--json")
    contract.add_project("two")
    several = await scristill("facts", "list")
    chosen = await scristill("facts", "list", "--project", "two", "--json")

    assert (none.code, only.code, several.code, chosen.code) == (4, 0, 2, 0)
    assert only.stdout == ""
    assert "there are several projects" in several.stderr


async def test_project_of_the_environment_is_used(scristill: Scristill, contract: Contract) -> None:
    contract.add_project("one")
    scristill.environ["SCRISTILL_PROJECT"] = "elsewhere"

    assert (await scristill("facts", "list")).code == 4


async def test_search_shows_the_quote_in_its_context(scristill: Scristill, tmp_path: Path) -> None:
    await ingest(scristill, tmp_path / "docs", bridge="The king opened the bridge.\nIt rained.")

    text = await scristill("search", "bridge")
    json = await scristill("search", "bridge", "--json", "--mode", "sparse", "-v")

    assert text.code == 0
    assert "**The king opened the bridge.** and more" in text.stdout
    assert f"{tmp_path}/docs/bridge [0, 27)" in text.stdout
    (document,) = json.documents
    assert document["mode"] == "sparse"
    assert document["hits"][0]["content"]["evidence"]["quote"] == "The king opened the bridge."
    assert json.stderr == f"trace: {document['trace_id']}\n"


async def test_search_that_finds_nothing_is_no_failure(scristill: Scristill, tmp_path: Path) -> None:
    await ingest(scristill, tmp_path / "docs", a="One.")

    done = await scristill("search", "unheard of")

    assert (done.code, done.stdout) == (0, "nothing found\n")


async def test_facts_are_listed_up_to_the_limit_and_by_source(scristill: Scristill, tmp_path: Path) -> None:
    await ingest(scristill, tmp_path / "docs", a="One.\nTwo.\nThree.", b="Four.")

    limited = await scristill("facts", "list", "--limit", 2, "--json")
    every = await scristill("facts", "list", "--limit", 0, "--json")
    of_b = await scristill("facts", "list", "--source", "docs/b", "--json")
    of_none = await scristill("facts", "list", "--source", "nothing")

    assert [fact["statement"] for fact in limited.documents] == ["One.", "Two."]
    assert len(every.documents) == 4
    assert [fact["statement"] for fact in of_b.documents] == ["Four."]
    assert of_none.code == 4


async def test_sources_are_listed_over_pages_and_by_state(scristill: Scristill, tmp_path: Path) -> None:
    await ingest(scristill, tmp_path / "docs", a="One.", b="Two.", c="Three.")

    every = await scristill("sources", "list", "--json")
    pending = await scristill("sources", "list", "--state", "pending")

    assert [Path(source["uri"]).name for source in every.documents] == ["a", "b", "c"]
    assert pending.stdout == "no sources\n"


async def test_jobs_are_listed_and_cancelled(scristill: Scristill, contract: Contract, tmp_path: Path) -> None:
    contract.working.clear()
    (tmp_path / "a").write_text("One.")
    await scristill("ingest", tmp_path / "a")
    (job_id,) = contract.jobs

    listed = await scristill("jobs", "list", "--state", "pending", "--json")
    cancelled = await scristill("jobs", "cancel", job_id, "--message", "no need", "--json")
    unknown = await scristill("jobs", "cancel", "0190c2f0-0000-7000-8000-000000000000")

    assert [job["job_id"] for job in listed.documents] == [job_id]
    assert cancelled.documents[0]["state"] == "CANCELLED"
    assert unknown.code == 4


async def test_watch_of_a_job_ends_with_it_and_tells_whether_it_succeeded(
    scristill: Scristill, contract: Contract
) -> None:
    job = Job(job_id="0190c2f0-0000-7000-8000-000000000001", type="extract")
    await contract.publish(job, JobState.JOB_STATE_PENDING)
    process = await scristill.start("jobs", "watch", job.job_id, "--json")
    await eventually(lambda: len(contract.watch_tokens) == 1, within=20)

    await contract.publish(job, JobState.JOB_STATE_RUNNING)
    await contract.publish(job, JobState.JOB_STATE_DEAD)

    done = await finished(process)
    assert done.code == 1
    assert [document["state"] for document in done.documents] == ["PENDING", "RUNNING", "DEAD"]
    assert (await scristill("jobs", "watch", job.job_id)).code == 1


async def test_watch_ends_at_interrupt(scristill: Scristill, contract: Contract) -> None:
    process = await scristill.start("jobs", "watch")
    await eventually(lambda: len(contract.watch_tokens) == 1, within=20)

    process.send_signal(signal.SIGINT)

    done = await finished(process)
    assert (done.code, done.stderr) == (130, "")


async def test_stack_that_is_not_there_is_named(scristill: Scristill, contract: Contract) -> None:
    await contract.stop()

    done = await scristill("search", "anything")

    assert done.code == 3
    expected = (
        f"scristill: cannot reach the extractor at 127.0.0.1:{contract.port}: is the stack up? (`scristill up`)\n"
    )
    assert done.stderr == expected


async def test_status_counts_what_is_in_a_stack_elsewhere(scristill: Scristill, tmp_path: Path) -> None:
    await ingest(scristill, tmp_path / "docs", a="One.\nTwo.")

    done = await scristill("status", "--json")

    assert done.code == 0
    assert done.documents[0]["running"] is False
    assert done.documents[0]["counts"]["facts"] == 2


async def test_status_without_any_stack_is_unreachable(scristill: Scristill) -> None:
    for name in ("SCHEDULER", "EXTRACTOR", "INDEXER"):
        del scristill.environ[f"SCRISTILL_{name}_ADDRESS"]

    done = await scristill("status", "--json")

    assert done.code == 3
    assert done.documents[0]["running"] is False


async def test_wrong_usage_is_exit_code_two(scristill: Scristill) -> None:
    answers = await asyncio.gather(scristill("search"), scristill("jobs", "list", "--state", "odd"), scristill("trace"))

    assert [answer.code for answer in answers] == [2, 2, 2]


async def test_unknown_trace_is_not_found(scristill: Scristill) -> None:
    assert (await scristill("trace", "0" * 32)).code == 4
    assert (await scristill("trace", "--last")).code == 4
    assert (await scristill("trace", "xyz")).code == 2


async def test_reader_that_goes_away_ends_the_command_quietly(
    scristill: Scristill, contract: Contract, tmp_path: Path
) -> None:
    await ingest(scristill, tmp_path / "docs", a="\n".join(f"Fact number {index}." for index in range(5000)))
    process = await scristill.start("facts", "list", "--limit", 0, "--json")
    assert process.stdout is not None
    await process.stdout.readline()

    process.stdout._transport.close()

    assert process.stderr is not None
    assert await process.stderr.read() == b""
    assert await process.wait() == 141
