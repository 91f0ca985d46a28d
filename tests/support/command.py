"""The `scristill` command as a process of its own."""

import asyncio
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
COMMAND = [sys.executable, "-m", "services.cli"]
WITHIN = 60.0


@dataclass
class Finished:
    code: int
    stdout: str
    stderr: str

    @property
    def documents(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.stdout.splitlines()]


@dataclass
class Scristill:
    """Runs `scristill` in the environment of one stack."""

    environ: dict[str, str]
    within: float = WITHIN

    async def start(self, *arguments: object) -> asyncio.subprocess.Process:
        return await self.launch(*COMMAND, *arguments)

    async def launch(self, *command: object) -> asyncio.subprocess.Process:
        """Any program."""
        return await asyncio.create_subprocess_exec(
            *map(str, command),
            env=self.environ,
            cwd=ROOT,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )

    async def __call__(self, *arguments: object) -> Finished:
        return await finished(await self.start(*arguments), within=self.within)

    async def answer(self, *arguments: object) -> list[dict[str, Any]]:
        """The JSON documents that it prints; fails unless it succeeds."""
        done = await self(*arguments, "--json")
        assert done.code == 0, f"{arguments}: {done.code}\n{done.stderr}"
        return done.documents


async def finished(process: asyncio.subprocess.Process, *, within: float = WITHIN) -> Finished:
    try:
        async with asyncio.timeout(within):
            stdout, stderr = await process.communicate()
    except TimeoutError:
        process.kill()
        raise
    return Finished(code=process.returncode or 0, stdout=stdout.decode(), stderr=stderr.decode())


def documents(directory: Path, **contents: str | bytes) -> Path:
    """The directory, with a file for each."""
    directory.mkdir(exist_ok=True)
    for name, content in contents.items():
        (directory / name).write_bytes(content.encode() if isinstance(content, str) else content)
    return directory
