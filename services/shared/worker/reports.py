"""Ends jobs: completions, failures and releases of many handlers share calls.

A report is repeated while the scheduler is away, for as long as the lease may still
hold; its fence makes a repeated one harmless.
"""

import random
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Self

import structlog
from scristill.scheduler.v1 import worker_service_pb2 as pb

from services.shared.batching import Batcher
from services.shared.grpc.errors import remote_errors
from services.shared.retry import Backoff, RetryPolicy

if TYPE_CHECKING:
    from scristill.scheduler.v1.worker_service_pb2_grpc import WorkerServiceAsyncStub

logger = structlog.stdlib.get_logger(__name__)

_MAX_ITEMS = 500
_CONCURRENT_CALLS = 4
_CALL_TIMEOUT = 30.0
_ATTEMPTS = 30

Outcome = pb.JobOutcome


class Reports:
    def __init__(self, *, stub: "WorkerServiceAsyncStub", worker_id: str, rng: random.Random) -> None:
        self._retry = RetryPolicy(attempts=_ATTEMPTS, backoff=Backoff(maximum=timedelta(seconds=5)), rng=rng)
        self._stack = AsyncExitStack()
        self.completing = _batcher(
            "worker-complete",
            self._call(
                lambda items: stub.CompleteJobs(
                    pb.CompleteJobsRequest(worker_id=worker_id, completions=items), timeout=_CALL_TIMEOUT
                )
            ),
        )
        self.failing = _batcher(
            "worker-fail",
            self._call(
                lambda items: stub.FailJobs(
                    pb.FailJobsRequest(worker_id=worker_id, attempts=items), timeout=_CALL_TIMEOUT
                )
            ),
        )
        self.releasing = _batcher(
            "worker-release",
            self._call(
                lambda items: stub.ReleaseJobs(
                    pb.ReleaseJobsRequest(worker_id=worker_id, releases=items), timeout=_CALL_TIMEOUT
                )
            ),
        )

    async def __aenter__(self) -> Self:
        for batcher in (self.completing, self.failing, self.releasing):
            await self._stack.enter_async_context(batcher)
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._stack.aclose()

    def _call(
        self, send: Callable[[Sequence[Any]], Awaitable[Any]]
    ) -> Callable[[Sequence[Any]], Awaitable[Sequence[Outcome]]]:
        async def once(items: Sequence[Any]) -> Sequence[Outcome]:
            with remote_errors("scheduler"):
                return list((await send(items)).outcomes)

        async def call(items: Sequence[Any]) -> Sequence[Outcome]:
            return await self._retry.run(lambda: once(items))

        return call


def _batcher(name: str, apply: Callable[[Sequence[Any]], Awaitable[Sequence[Outcome]]]) -> Batcher[Any, Outcome]:
    return Batcher(apply, name=name, max_weight=_MAX_ITEMS, concurrency=_CONCURRENT_CALLS)
