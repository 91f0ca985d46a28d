"""Any service may die at any moment of an ingest; nothing is lost, nothing is done twice."""

import os
import signal
import sysconfig
from pathlib import Path

import pytest

from deploy.local.process import State
from tests.support.command import Scristill
from tests.support.invariants import Peers, check_at_rest
from tests.support.local_stack import LocalStack
from tests.support.waiting import eventually

FILES = 300
MIN_FILE_BYTES = 500
MAX_MEMORY_BYTES = 400 * 1024**2
SERVICES = ("llm_gateway", "scheduler", "indexer", "extractor")


def _real_files() -> list[Path]:
    """Text that stands on any machine: sources of the standard library, the smallest that say something."""
    library = Path(sysconfig.get_path("stdlib"))
    sizes = {path: path.stat().st_size for path in library.rglob("*.py") if "site-packages" not in path.parts}
    return sorted((path for path in sizes if sizes[path] >= MIN_FILE_BYTES), key=lambda path: (sizes[path], path))[
        :FILES
    ]


@pytest.fixture
def library(tmp_path: Path) -> Path:
    for index, path in enumerate(_real_files()):
        (tmp_path / f"{index:03}-{path.stem}.txt").write_bytes(path.read_bytes())
    (tmp_path / "empty.txt").touch()
    (tmp_path / "binary.bin").write_bytes(bytes(range(256)) * 8)
    return tmp_path


@pytest.mark.timeout(600)
async def test_an_ingest_survives_the_death_of_every_service(
    stack: LocalStack, scristill: Scristill, peers: Peers, library: Path
) -> None:
    (created,) = await scristill.answer("project", "create", "crashes")
    project_id = created["project_id"]
    await scristill.answer("ingest", library, "--project", "crashes")

    for share, name in enumerate(SERVICES, start=1):
        await _until_extracted(peers, project_id, share * FILES // 6)
        killed = stack.of(name).pid
        assert killed
        os.kill(killed, signal.SIGKILL)
        await _until_restarted(stack, name, killed)

    await scristill.answer("ingest", library, "--project", "crashes", "--follow")
    rest = await check_at_rest(peers, project_id)
    assert rest.sources == {"SOURCE_STATE_EXTRACTED": FILES, "SOURCE_STATE_SKIPPED": 2}
    skipped = {Path(s.uri).name: s.message async for s in peers.list_sources(project_id) if s.reason}
    assert set(skipped) == {"empty.txt", "binary.bin"}
    assert {p.name: p.rss_bytes for p in stack.status.processes if p.name in SERVICES and over(p.rss_bytes)} == {}


def over(rss_bytes: int | None) -> bool:
    return (rss_bytes or 0) > MAX_MEMORY_BYTES


async def _until_restarted(stack: LocalStack, name: str, killed: int) -> None:
    def restarted() -> bool:
        process = stack.of(name)
        assert process.pid not in (None, killed), f"{process}"
        assert process.state == State.READY, f"{process}"
        return True

    await eventually(restarted, within=60)


async def _until_extracted(peers: Peers, project_id: str, count: int) -> None:
    async def enough() -> bool:
        states = [source.state async for source in peers.list_sources(project_id)]
        return sum(state not in (1, 2) for state in states) >= count

    await eventually(enough, within=180)
