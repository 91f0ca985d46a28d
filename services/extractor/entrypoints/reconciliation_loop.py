"""The loop in which this process reconciles.

It does so on demand, on its period, for a replica that has vanished, and when a store
seems to have been restored: the timeline of the database is another one, the index knows
more than it does, or lacks what it acknowledged. Then it does so twice: at once, and
when nothing that was sent before can arrive any more. Whether a comparison is due is asked
of the database alone, so that neither a failed run nor a crash loses the reason. It also
sends facts again that nothing would ever index.
"""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta

import structlog

from services.extractor.application.ports import UnitOfWork, Wake
from services.extractor.application.reconcile import OwnerChanged, Reconciler
from services.extractor.domain.outbox import Topic
from services.extractor.domain.reconciliation import Run, RunRequest
from services.shared.errors import RemoteError, ServiceError

logger = structlog.stdlib.get_logger(__name__)

_ORPHANS = 1000


class ReconciliationLoop:
    def __init__(
        self,
        *,
        reconciler: Reconciler,
        unit_of_work: UnitOfWork,
        watch: Callable[[], Awaitable[bool]],
        wake: Wake,
        period: timedelta,
        settle: timedelta,
        orphan_after: timedelta,
        pace: int,
        look: timedelta = timedelta(seconds=30),
    ) -> None:
        self._reconciler = reconciler
        self._unit_of_work = unit_of_work
        self._watch = watch
        self._wake = wake
        self._period = period
        self._settle = settle
        self._orphan_after = orphan_after
        self._pace = pace
        self._look = look.total_seconds()
        self._asked: asyncio.Queue[Run | None] = asyncio.Queue(maxsize=1)
        """None asks to look around now."""

    def look_now(self) -> None:
        if self._asked.empty():
            self._asked.put_nowait(None)

    async def begin(self, request: RunRequest) -> tuple[Run, bool]:
        """The run under way, opened by this call if there was none, and whether it was under way before."""
        if not request.pace:
            request = RunRequest(epoch=request.epoch, dry_run=request.dry_run, pace=self._pace)
        run, opened = await self._reconciler.begin(request)
        if opened:
            await self._asked.put(run)
        return run, not opened

    async def run(self, stop: asyncio.Event) -> None:
        stopping = asyncio.create_task(stop.wait(), name="reconciliation-stop")
        try:
            while not stop.is_set():
                work = asyncio.create_task(self._once(), name="reconciliation")
                await asyncio.wait({work, stopping}, return_when=asyncio.FIRST_COMPLETED)
                work.cancel()
                await asyncio.wait({work})
                if not work.cancelled():
                    work.result()
        finally:
            stopping.cancel()

    async def _once(self) -> None:
        try:
            run = await self._next()
            if run is not None:
                await self._reconciler.go_on(run)
        except OwnerChanged:
            logger.warning("reconciliation_taken_over")
        except (RemoteError, ServiceError) as error:
            logger.warning("reconciliation_failed", error=str(error))

    async def _next(self) -> Run | None:
        """What to work on now; looks around after a while in which nobody asked."""
        try:
            async with asyncio.timeout(self._look):
                asked = await self._asked.get()
            if asked is not None:
                return asked
        except TimeoutError:
            await self._send_orphans()
        return await self._reconciler.take_over() or await self._due()

    async def _due(self) -> Run | None:
        await self._watch_index()
        async with self._unit_of_work() as repositories:
            if await repositories.reconciliations.notice_timeline():
                logger.warning("database_restored_or_failed_over")
            if not await repositories.reconciliations.due(period=self._period, settle=self._settle):
                return None
        run, opened = await self._reconciler.begin(RunRequest(pace=self._pace))
        return run if opened else None

    async def _watch_index(self) -> None:
        try:
            await self._watch()
        except RemoteError as error:
            logger.warning("index_not_looked_at", error=str(error))

    async def _send_orphans(self) -> None:
        async with self._unit_of_work() as repositories:
            count = await repositories.outbox.requeue_orphans(
                older_than=self._orphan_after, limit=_ORPHANS, traceparent=""
            )
        if count:
            logger.warning("orphaned_facts_sent_again", count=count)
            self._wake(Topic.FACT)
