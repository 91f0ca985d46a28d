"""One shape for all four kinds of RPC, so that an interceptor is one method.

grpc.aio hands out handlers in four arities, each as a coroutine that reads and writes
through its context or as an async generator. `InterceptorChain` folds them into
`intercept(rpc, proceed)`: code before, `await proceed()`, code after. Each request
message passes the checks on its way into the handler. Handlers are wrapped once, when
the server is built: the runtime's own interceptors would look each call's handler up anew.
"""

import asyncio
import inspect
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing
from functools import partial
from typing import Any, TypeAlias, cast

import grpc
import grpc.aio
from google.protobuf.message import Message

from services.shared.errors import Code, ServiceError

Proceed = Callable[[], Awaitable[None]]
Context: TypeAlias = grpc.aio.ServicerContext[Any, Any]
# Generic for type checkers only.
Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"
MaybeHandler: TypeAlias = "grpc.RpcMethodHandler[Any, Any] | None"

RequestCheck = Callable[[Message], None]
"""Sees each request message before the handler; raises a `ServiceError` to refuse it."""

_KINDS = {
    (False, False): "unary_unary",
    (False, True): "unary_stream",
    (True, False): "stream_unary",
    (True, True): "stream_stream",
}


class Rpc:
    """One call as interceptors see it."""

    __slots__ = (
        "_metadata",
        "code",
        "context",
        "error",
        "method",
        "received",
        "response",
        "sent",
        "started",
        "streaming",
    )

    def __init__(self, *, method: str, streaming: bool, context: Context) -> None:
        self.method = method
        """`/package.Service/Method`."""
        self.streaming = streaming
        self.context = context
        self.started = time.perf_counter()
        self.received = 0
        self.sent = 0
        self.response: Any = None
        self.code = Code.OK
        """Final once `proceed` has returned or `record` was called."""
        self.error: BaseException | None = None
        self._metadata: Any = None

    @property
    def name(self) -> str:
        """`package.Service/Method`, as the semantic conventions write it."""
        return self.method[1:]

    @property
    def elapsed(self) -> float:
        return time.perf_counter() - self.started

    def metadata(self, key: str) -> str | None:
        """The first value of a metadata key of the request."""
        if self._metadata is None:
            # The runtime builds its answer anew each time.
            self._metadata = self.context.invocation_metadata() or ()
        for name, value in self._metadata:
            if name == key:
                return value.decode() if isinstance(value, bytes) else value
        return None

    def record(self, error: BaseException) -> None:
        """Notes how the call failed; every interceptor that looks at `code` does so on its way out."""
        self.error = error
        self.code = self._code_of(error)

    def _code_of(self, error: BaseException) -> Code:
        if isinstance(error, ServiceError):
            return error.code
        if isinstance(error, asyncio.CancelledError):
            remaining = cast("float | None", self.context.time_remaining())
            return Code.DEADLINE_EXCEEDED if remaining is not None and remaining <= 0 else Code.CANCELLED
        if isinstance(error, grpc.aio.AbortError):
            return explicit_code(self.context)
        return Code.INTERNAL


def explicit_code(context: Context) -> Code:
    """The code that a handler has set by itself; OK when it has not. The runtime holds a number or an enum."""
    code: Any = context.code()
    return Code(code.value[0] if isinstance(code, grpc.StatusCode) else code or 0)


class Interceptor(ABC):
    @abstractmethod
    async def intercept(self, rpc: Rpc, proceed: Proceed) -> None:
        """Wraps the call. Raise a `ServiceError` to refuse it; never swallow an exception of `proceed`."""


class InterceptorChain:
    """Runs interceptors in the order given, the first one outermost, and checks on each request message."""

    def __init__(self, interceptors: Sequence[Interceptor], *, checks: Sequence[RequestCheck] = ()) -> None:
        self._interceptors = tuple(interceptors)
        self._checks = tuple(checks)

    def around(self, method: str, handler: Handler) -> Handler:
        """The handler of `/package.Service/Method` with the chain around it."""
        return _Method(method, handler, self._interceptors, self._checks).handler()


class _Method:
    """One RPC method with the chain around its handler."""

    def __init__(
        self, name: str, original: Handler, interceptors: Sequence[Interceptor], checks: Sequence[RequestCheck]
    ) -> None:
        self._name = name
        self._original = original
        self._around = [each.intercept for each in reversed(interceptors)]
        self._checks = checks
        self._kind = bool(original.request_streaming), bool(original.response_streaming)
        self._behaviour: Any = getattr(original, _KINDS[self._kind])

    def handler(self) -> Handler:
        make: Callable[..., Handler] = getattr(grpc, f"{_KINDS[self._kind]}_rpc_method_handler")
        return make(
            self._stream if any(self._kind) else self._unary,
            request_deserializer=self._original.request_deserializer,
            response_serializer=self._original.response_serializer,
        )

    async def _unary(self, request: Any, context: Context) -> Any:
        rpc = Rpc(method=self._name, streaming=False, context=context)

        async def call() -> None:
            self._admit(rpc, request)
            rpc.response = await self._behaviour(request, context)
            rpc.sent = 1
            rpc.code = explicit_code(context)

        await self._run(rpc, call)
        return rpc.response

    async def _stream(self, request: Any, context: Context) -> Any:
        rpc = Rpc(method=self._name, streaming=True, context=context)
        requests, responses = self._kind

        async def call() -> None:
            stream = StreamContext(context, rpc, self._admit)
            if not requests:
                self._admit(rpc, request)
            result = self._behaviour(self._admitted(rpc, request) if requests else request, stream)
            if inspect.isawaitable(result):
                rpc.response = await result
                rpc.sent += not responses
            else:
                async with aclosing(result):
                    async for message in result:
                        await stream.write(message)
            rpc.code = explicit_code(context)

        await self._run(rpc, call)
        return rpc.response

    async def _run(self, rpc: Rpc, call: Proceed) -> None:
        proceed = call
        for intercept in self._around:
            proceed = partial(intercept, rpc, proceed)
        await proceed()

    def _admit(self, rpc: Rpc, message: Message) -> None:
        rpc.received += 1
        for check in self._checks:
            check(message)

    async def _admitted(self, rpc: Rpc, messages: AsyncIterator[Message]) -> AsyncIterator[Message]:
        async for message in messages:
            self._admit(rpc, message)
            yield message


class StreamContext:
    """A servicer context that counts and checks the messages of a stream."""

    def __init__(self, context: Context, rpc: Rpc, admit: Callable[[Rpc, Message], None]) -> None:
        self._context = context
        self._rpc = rpc
        self._admit = admit

    async def read(self) -> Any:
        message = await self._context.read()
        if message is not grpc.aio.EOF:
            self._admit(self._rpc, message)
        return message

    async def write(self, message: Any) -> None:
        await self._context.write(message)
        self._rpc.sent += 1

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context, name)
