"""A whole service in one file, as the README of `services/shared` shows it; the tests start it as a process."""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from grpc_health.v1 import health_pb2_grpc  # noqa: F401 - any generated module would do
from pydantic import Field
from pydantic_settings import SettingsConfigDict

from services.shared import command
from services.shared.lifecycle import Loop
from services.shared.service import Runtime, Service, ServiceDefinition
from services.shared.settings import ServiceSettings


class ExampleSettings(ServiceSettings):
    model_config = SettingsConfigDict(env_prefix="EXAMPLE_")

    greeting: str = Field(default="hello", description="What it says.")


def say(line: str) -> None:
    """In one write: workers share the output, and `print` writes the end of a line by itself."""
    os.write(1, f"{line}\n".encode())


@asynccontextmanager
async def bootstrap(settings: ExampleSettings, runtime: Runtime) -> AsyncIterator[Service]:
    async def tick(stop: asyncio.Event) -> None:
        say("loop started")
        await stop.wait()
        say("loop stopped")

    async def crash(stop: asyncio.Event) -> None:
        await runtime.drain.sleep(0.2)
        raise ValueError("secret text")

    async def watch_drain(stop: asyncio.Event) -> None:
        await runtime.drain.wait()
        say("drain started")
        await stop.wait()

    loops = [Loop(name="tick", run=tick), Loop(name="drain", run=watch_drain)]
    if "EXAMPLE_TEST_CRASH" in os.environ:
        loops.append(Loop(name="crash", run=crash))
    say("opened")
    if "EXAMPLE_TEST_HANG" in os.environ:
        await asyncio.Event().wait()
    try:
        yield Service(registrations=[], loops=loops)
    finally:
        say("closed")


if __name__ == "__main__":
    command.run(ServiceDefinition(name="example", settings=ExampleSettings, bootstrap=bootstrap))
