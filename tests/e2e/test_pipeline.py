"""From files to searchable facts, through every service."""

import json
import re
import shlex
from pathlib import Path

import pytest
from scristill.extractor.v1 import source_service_pb2

from tests.support.command import ROOT, Scristill
from tests.support.invariants import Peers, check_at_rest

# Each step is a process of its own, on a machine that may run another suite beside.
pytestmark = pytest.mark.timeout(300)

CORPUS = ROOT / "deploy/demo/corpus"


async def _project(scristill: Scristill, name: str) -> str:
    (created,) = await scristill.answer("project", "create", name)
    return str(created["project_id"])


async def test_the_demo_corpus_becomes_facts_that_are_grounded_and_indexed(scristill: Scristill, peers: Peers) -> None:
    project_id = await _project(scristill, "corpus")

    await scristill.answer("ingest", CORPUS, "--project", "corpus", "--follow")

    rest = await check_at_rest(peers, project_id)
    assert rest.sources == {"SOURCE_STATE_EXTRACTED": len(list(CORPUS.iterdir()))}
    sources = {Path(source.uri).name: source async for source in peers.list_sources(project_id)}
    assert all(source.extraction_count >= 3 for source in sources.values())
    for query in json.loads((ROOT / "deploy/demo/queries.json").read_text()):
        hits = await scristill.answer("search", query["question"], "--project", "corpus", "--limit", "1")
        best = hits[0]["hits"][0]
        assert best["content"]["source_uri"].endswith(query["source"])
        assert query["quote_contains"] in best["content"]["evidence"]["quote"]


async def test_the_readme_says_how_to_go_on(scristill: Scristill, tmp_path: Path) -> None:
    (tmp_path / "a.md").write_text("# Ships\n\nThe steamer Concordia was built in Bergen in 1907.\n")
    commands = re.findall(r"^\$ \.venv/bin/scristill (.+)$", (ROOT / "README.md").read_text(), re.MULTILINE)
    assert commands

    for command in commands:
        done = await scristill(*(word.replace("~/notes", str(tmp_path)) for word in shlex.split(command)))
        assert done.code == 0, f"{command}\n{done.stderr}"


async def test_the_same_files_again_change_nothing(scristill: Scristill, peers: Peers, tmp_path: Path) -> None:
    project_id = await _project(scristill, "again")
    (tmp_path / "a.md").write_text("# Ships\n\nThe steamer Concordia was built in Bergen in 1907.\n")
    await scristill.answer("ingest", tmp_path, "--project", "again", "--follow")
    before = {fact.extraction_id: fact.version async for fact in peers.stream_facts(project_id)}

    await scristill.answer("ingest", tmp_path, "--project", "again", "--follow")

    assert {fact.extraction_id: fact.version async for fact in peers.stream_facts(project_id)} == before
    await check_at_rest(peers, project_id)


async def test_a_new_version_replaces_the_old_facts(scristill: Scristill, peers: Peers, tmp_path: Path) -> None:
    project_id = await _project(scristill, "versions")
    page = tmp_path / "a.md"
    page.write_text("The steamer Concordia was built in Bergen in 1907. Captain Holm commanded the Concordia.\n")
    await scristill.answer("ingest", page, "--project", "versions", "--follow")

    page.write_text("The steamer Concordia was built in Oslo in 1908. Captain Holm commanded the Concordia.\n")
    await scristill.answer("ingest", page, "--project", "versions", "--follow")

    statements = " ".join([fact.statement async for fact in peers.stream_facts(project_id)])
    assert "Oslo" in statements
    assert "Bergen" not in statements
    (rest,) = [source async for source in peers.list_sources(project_id)]
    assert rest.visible_version == rest.version == 2
    await check_at_rest(peers, project_id)


async def test_a_deleted_source_is_gone_from_every_store(scristill: Scristill, peers: Peers, tmp_path: Path) -> None:
    project_id = await _project(scristill, "deleted")
    page = tmp_path / "a.md"
    page.write_text("The steamer Concordia was built in Bergen in 1907. Captain Holm commanded the Concordia.\n")
    await scristill.answer("ingest", page, "--project", "deleted", "--follow")
    await check_at_rest(peers, project_id)
    (source,) = [source async for source in peers.list_sources(project_id)]

    request = source_service_pb2.DeleteSourceRequest(source_id=source.source_id, certify=True)
    certificate = (await peers.sources.DeleteSource(request, timeout=30)).certificate

    assert certificate.fact_count == certificate.point_count == source.extraction_count
    assert certificate.chunk_count == certificate.gateway_result_count == 1
    assert certificate.remaining_point_count == 0

    await scristill.answer("ingest", page, "--project", "deleted", "--follow")
    (again,) = [source async for source in peers.list_sources(project_id)]
    assert (again.source_id, again.extraction_count) == (source.source_id, source.extraction_count)
    await check_at_rest(peers, project_id)
