"""Real processes: the example service started, asked and stopped as an operator would."""

import asyncio
import json
import os
import signal
import sys
import urllib.request
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from services.shared.grpc.channel import connect
from tests.integration.shared import servicers
from tests.support.waiting import eventually

ROOT = Path(__file__).parents[3]


@dataclass(slots=True, kw_only=True)
class Example:
    process: asyncio.subprocess.Process
    lines: list[str] = field(default_factory=list)

    def events(self, name: str) -> list[dict]:
        records = [json.loads(line) for line in self.lines if line.startswith("{")]
        return [record for record in records if record["event"] == name]

    def plain(self) -> list[str]:
        return [line for line in self.lines if not line.startswith("{")]

    async def serving(self, count: int = 1) -> dict:
        await eventually(lambda: len(self.events("serving")) >= count or self.process.returncode is not None, within=30)
        return self.events("serving")[0]

    async def exit(self) -> int:
        async with asyncio.timeout(20):
            return await self.process.wait()


@asynccontextmanager
async def example(*arguments: str, **variables: str) -> AsyncIterator[Example]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(Path(__file__).parent / "example.py"),
        *arguments,
        env=os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT}/protos/gen/python"} | variables,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    running = Example(process=process)

    async def collect() -> None:
        async for line in process.stdout:
            running.lines.append(line.decode().rstrip())

    reading = asyncio.create_task(collect())
    try:
        yield running
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
        await reading


async def run(*arguments: str, **variables: str) -> tuple[int, Sequence[str]]:
    async with example(*arguments, **variables) as running:
        status = await running.exit()
    return status, running.lines


async def fetch(port: int, path: str) -> str:
    def get() -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as response:
            return response.read().decode()

    return await asyncio.to_thread(get)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_signal_stops_in_order_and_exits_with_zero(number: signal.Signals):
    async with example() as running:
        await running.serving()
        running.process.send_signal(number)
        assert await running.exit() == 0

    assert running.plain() == ["opened", "loop started", "drain started", "loop stopped", "closed"]
    assert running.events("stopped")


async def test_second_signal_ends_the_wait_for_a_call_that_does_not_end():
    async with example(EXAMPLE_DRAIN_SECONDS="60", EXAMPLE_DRAIN_DELAY_SECONDS="60") as running:
        await running.serving()
        running.process.send_signal(signal.SIGTERM)
        await eventually(lambda: running.events("stopping"))
        running.process.send_signal(signal.SIGTERM)
        assert await running.exit() == 0

    assert running.events("hard_stop")
    assert running.plain()[-1] == "closed"


async def test_signal_ends_a_start_that_hangs():
    async with example(EXAMPLE_TEST_HANG="1") as running:
        await eventually(lambda: running.plain() == ["opened"], within=30)
        running.process.send_signal(signal.SIGTERM)
        assert await running.exit() == 0

    assert running.events("stopped_while_starting")


async def test_crashed_loop_ends_the_process_with_status_one():
    async with example(EXAMPLE_TEST_CRASH="1") as running:
        assert await running.exit() == 1

    assert running.events("loop_crashed")[0]["loop"] == "crash"
    assert running.plain()[-1] == "closed"


async def test_bad_variable_is_one_line_and_status_two():
    status, lines = await run(EXAMPLE_PORT="abc")

    assert status == 2
    assert len(lines) == 1
    assert lines[0].startswith("EXAMPLE_PORT: input should be a valid integer")


async def test_taken_port_is_one_line_and_status_one():
    async with example() as first:
        port = (await first.serving())["port"]
        status, lines = await run(EXAMPLE_PORT=str(port))

    assert status == 1
    assert json.loads(lines[-1])["problem"] == f"cannot listen on 127.0.0.1:{port}"


async def test_metrics_and_health_are_served_over_http():
    async with example() as running:
        serving = await running.serving()
        async with connect(f"127.0.0.1:{serving['port']}") as channel:
            await servicers.server_info(channel)
        metrics = await fetch(serving["metrics_port"], "/metrics")
        health = await fetch(serving["metrics_port"], "/healthz")

    assert 'scristill_rpc_server_duration_seconds_count{code="OK",method="scristill.common' in metrics
    assert health == "ok\n"


async def test_workers_share_a_port_and_their_metrics_are_summed():
    async with example(EXAMPLE_WORKERS="2") as running:
        await running.serving(2)
        supervising = running.events("supervising")[0]
        for _ in range(6):
            async with connect(f"127.0.0.1:{supervising['port']}") as channel:
                await servicers.server_info(channel)
        metrics = await fetch(supervising["metrics_port"], "/metrics")
        running.process.send_signal(signal.SIGTERM)
        assert await running.exit() == 0

    counts = [line for line in metrics.splitlines() if "duration_seconds_count" in line and "GetServerInfo" in line]
    assert counts[0].endswith(" 6.0")
    assert running.plain().count("closed") == 2


async def test_killed_worker_is_replaced():
    async with example(EXAMPLE_WORKERS="2") as running:
        await running.serving(2)
        os.kill(running.events("serving")[0]["pid"], signal.SIGKILL)
        await running.serving(3)
        running.process.send_signal(signal.SIGTERM)
        assert await running.exit() == 0

    assert running.events("worker_died")[0]["status"] == -signal.SIGKILL


async def test_workers_stop_when_their_supervisor_is_killed():
    async with example(EXAMPLE_WORKERS="2") as running:
        await running.serving(2)
        running.process.kill()
        await eventually(lambda: running.plain().count("closed") == 2)
