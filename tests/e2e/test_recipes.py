"""The recipes of docs/grpcurl.md, run as they stand."""

import asyncio
import os
import re
import sys
from pathlib import Path

import pytest

from tests.support.command import ROOT
from tests.support.local_stack import LocalStack

RECIPES = re.findall(r"^\$ (.+)$", (ROOT / "docs/grpcurl.md").read_text(), re.MULTILINE)
PORTS = {7401: "SCHEDULER_PORT", 7402: "EXTRACTOR_PORT", 7403: "INDEXER_PORT", 7404: "LLM_GATEWAY_PORT"}
TIMED_OUT = 124
WITHIN = 60.0


async def run(command: str) -> tuple[int | None, str, str]:
    environ = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    process = await asyncio.create_subprocess_exec(
        "bash", "-c", command, env=environ, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    async with asyncio.timeout(WITHIN):
        stdout, stderr = await process.communicate()
    return process.returncode, stdout.decode(), stderr.decode()


@pytest.mark.parametrize("recipe", RECIPES)
async def test_recipe(stack: LocalStack, recipe: str) -> None:
    command = re.sub(r":(740[1-4])\b", lambda match: f":{stack.environ[PORTS[int(match[1])]]}", recipe)

    code, stdout, stderr = await run(command)

    assert code == (TIMED_OUT if command.startswith("timeout") else 0), stderr
    assert stdout or stderr


@pytest.mark.parametrize("port", PORTS.values())
async def test_all_that_a_service_lists_is_described(stack: LocalStack, port: str) -> None:
    grpcurl = f"grpcurl -plaintext 127.0.0.1:{stack.environ[port]}"
    code, listed, stderr = await run(f"{grpcurl} list")
    assert code == 0, stderr
    services = [name for name in listed.split() if name.startswith("scristill.")]
    assert len(services) >= 2

    code, described, stderr = await run(" && ".join(f"{grpcurl} describe {name}" for name in services))

    assert code == 0, stderr
    assert all(f"{name} is a service" in described for name in services)


def test_every_service_is_listed_described_and_called() -> None:
    assert {port for port in PORTS if f"{port} list" in " ".join(RECIPES)} == set(PORTS)
    assert any("buf curl" in recipe and "WatchJobs" in recipe for recipe in RECIPES)
