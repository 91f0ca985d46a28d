"""Channels to the services of one stack, and the ways to call through them: by pages, and with patience."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractContextManager, AsyncExitStack
from datetime import timedelta
from types import TracebackType
from typing import Protocol, Self, TypeVar

from grpc import aio

from services.cli.local import Endpoints
from services.shared.errors import Code, RemoteError
from services.shared.grpc.channel import connect
from services.shared.grpc.errors import remote_errors
from services.shared.retry import Backoff, RetryPolicy

PAGE_SIZE = 1000
PATIENT_ATTEMPTS = 30


class Connection:
    def __init__(self, endpoints: Endpoints) -> None:
        self._endpoints = endpoints
        self._channels: dict[str, aio.Channel] = {}
        self._exits = AsyncExitStack()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc_val: BaseException | None, exc_tb: TracebackType | None
    ) -> None:
        await self._exits.aclose()

    def errors(self, service: str) -> AbstractContextManager[None]:
        """Failed calls inside become `RemoteError`, whose peer says where the service was sought."""
        return remote_errors(f"{service} at {self._endpoints.services[service]}")

    def channel(self, service: str) -> aio.Channel:
        """For the stubs of one service."""
        channel = self._channels.get(service)
        if channel is None:
            channel = self._channels[service] = connect(self._endpoints.services[service])
            self._exits.push_async_callback(channel.close)
        return channel


class Page(Protocol):
    @property
    def next_page_token(self) -> str: ...


PageT = TypeVar("PageT", bound=Page)
ResultT = TypeVar("ResultT")


async def pages(fetch: Callable[[str], Awaitable[PageT]]) -> AsyncIterator[PageT]:
    """`fetch` gets the token of each page, the empty one first."""
    token = ""
    while True:
        page = await fetch(token)
        yield page
        token = page.next_page_token
        if not token:
            return


async def patiently(call: Callable[[], Awaitable[ResultT]]) -> ResultT:
    """Repeats an idempotent call while the service restarts or asks to come back later, for a minute or so.

    The channel's own retries bridge a second; work under way shall outlive more than that.
    """
    backoff = Backoff(initial=timedelta(milliseconds=200), maximum=timedelta(seconds=5))
    return await RetryPolicy(attempts=PATIENT_ATTEMPTS, backoff=backoff, transient=is_passing).run(call)


def is_passing(error: Exception) -> bool:
    return isinstance(error, RemoteError) and (error.transient or error.code is Code.DEADLINE_EXCEEDED)
