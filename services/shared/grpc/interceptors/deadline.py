"""Makes the caller's deadline known to the work that the call starts."""

import asyncio
from contextlib import AbstractContextManager, nullcontext
from typing import cast

from services.shared import deadlines
from services.shared.errors import DeadlineUnreachable
from services.shared.grpc.interceptors.base import Interceptor, Proceed, Rpc


class DeadlineInterceptor(Interceptor):
    """Opens a `deadlines` scope per call; a unary call without a deadline gets the default one.

    The runtime itself cancels a handler at the client's deadline; only the default is
    enforced here. Streams without a deadline stay unbounded: a watch has no end.
    """

    def __init__(self, *, default_seconds: float) -> None:
        self._default = default_seconds

    async def intercept(self, rpc: Rpc, proceed: Proceed) -> None:
        remaining = cast("float | None", rpc.context.time_remaining())
        if remaining is None and not rpc.streaming:
            await self._bounded(proceed)
            return
        scope: AbstractContextManager[None] = nullcontext() if remaining is None else deadlines.within(remaining)
        with scope:
            await proceed()

    async def _bounded(self, proceed: Proceed) -> None:
        with deadlines.within(self._default):
            timeout = asyncio.timeout(self._default)
            try:
                async with timeout:
                    await proceed()
            except TimeoutError as error:
                if not timeout.expired():
                    raise
                raise DeadlineUnreachable(
                    f"the call took longer than the server's default deadline of {self._default:g} s",
                    metadata={"default_deadline_ms": round(self._default * 1000)},
                ) from error
