"""Sources that wait for a job which will never end them: none stays open in silence.

A job can end without its version: cancelled before it ran, dead after too many crashes,
or forgotten by a scheduler that was restored from an earlier time. The scheduler tells of
jobs that end badly; what it said while nobody listened is found by asking it about
versions that have not moved for long. A version whose job ended badly says so, and one
whose job is lost gets another one.
"""

import asyncio
import random
from collections.abc import Callable
from datetime import timedelta
from uuid import UUID

import structlog

from services.extractor.application.ports import Jobs, UnitOfWork, Wake
from services.extractor.domain.errors import StaleHolder
from services.extractor.domain.outbox import Topic
from services.extractor.domain.source import Ending, JobEnding, JobFate, SourceState, VersionRef
from services.shared.errors import RemoteError, Unavailable
from services.shared.lifecycle import wait_for_event
from services.shared.retry import Backoff

logger = structlog.stdlib.get_logger(__name__)

_BATCH = 200
_LISTEN_AGAIN = Backoff(initial=timedelta(milliseconds=500), maximum=timedelta(seconds=15))


class StrandedVersions:
    """`run` is a background loop, which listens and sweeps; `sweep` is one round of asking."""

    def __init__(
        self,
        *,
        unit_of_work: UnitOfWork,
        jobs: Jobs,
        wake: Wake,
        new_id: Callable[[], UUID],
        rng: random.Random,
        older_than: timedelta,
    ) -> None:
        self._unit_of_work = unit_of_work
        self._jobs = jobs
        self._wake = wake
        self._new_id = new_id
        self._rng = rng
        self._older_than = older_than

    async def run(self, stop: asyncio.Event) -> None:
        async with asyncio.TaskGroup() as tasks:
            listening = tasks.create_task(self._listen(), name="stranded-listen")
            while not await wait_for_event(stop, self._older_than.total_seconds() / 5):
                try:
                    await self.sweep()
                except (RemoteError, Unavailable) as error:
                    logger.warning("stranded_sweep_interrupted", error=str(error))
            listening.cancel()

    async def _listen(self) -> None:
        failures = 0
        while True:
            try:
                async for job_id, ending in self._jobs.ending_badly():
                    failures = 0
                    await self.end(job_id, ending)
            except (RemoteError, Unavailable) as error:
                failures += 1
                logger.warning("job_watch_interrupted", error=str(error))
            await asyncio.sleep(_LISTEN_AGAIN.delay(failures, rng=self._rng).total_seconds())

    async def end(self, job_id: UUID, ending: JobEnding) -> None:
        """The version of a job that has ended badly, if it is still open."""
        async with self._unit_of_work() as repositories:
            refs = await repositories.versions.stranded(older_than=timedelta(), limit=_BATCH, job_ids=[job_id])
        for ref in refs:
            await self._free(ref, ending)

    async def sweep(self) -> None:
        async with self._unit_of_work() as repositories:
            refs = await repositories.versions.stranded(older_than=self._older_than, limit=_BATCH)
        if not refs:
            return
        endings = await self._jobs.endings([ref.job_id for ref in refs])
        for ref in refs:
            ending = endings[ref.job_id]
            if ending.fate is not JobFate.OPEN:
                await self._free(ref, ending)

    async def _free(self, ref: VersionRef, job: JobEnding) -> None:
        logger.warning("source_stranded", source_id=str(ref.source_id), job_id=str(ref.job_id), fate=job.fate)
        try:
            async with self._unit_of_work() as repositories:
                if job.fate is JobFate.ENDED_BADLY:
                    ending = Ending(state=SourceState.FAILED, reason=job.reason, message=job.message)
                    await repositories.versions.finish(ref, ending)
                else:
                    await repositories.versions.give_new_job(ref, job_id=self._new_id())
        except StaleHolder:
            return  # a holder has come in the meantime, and will end the version itself
        self._wake(Topic.JOB)
