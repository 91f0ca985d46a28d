"""The handler of jobs of type `extract`."""

import asyncio
import random
from dataclasses import dataclass
from datetime import timedelta
from uuid import UUID

import structlog

from services.extractor.application.extract import ExtractSource
from services.extractor.application.ports import Jobs
from services.extractor.application.report import Report
from services.extractor.domain.errors import StaleHolder
from services.extractor.domain.source import Ending, SourceState, VersionRef
from services.shared.errors import Reason, RemoteError, Unavailable
from services.shared.retry import Backoff
from services.shared.worker import Done, Fail, Job, LeaseIsLost, Retry, Snooze
from services.shared.worker.job import Interruption

logger = structlog.stdlib.get_logger(__name__)

_OUTAGE = Backoff(initial=timedelta(seconds=2), maximum=timedelta(seconds=30))
_GONE_DELAY = timedelta(seconds=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class JobProgress:
    """Passes what the use case reports on to the lease."""

    job: Job

    def report(self, *, completed: int, total: int, message: str) -> None:
        self.job.report(completed=completed, total=total, message=message)


class ExtractJobs:
    def __init__(self, extract: ExtractSource, *, jobs: Jobs, rng: random.Random) -> None:
        self._extract = extract
        self._jobs = jobs
        self._rng = rng

    async def __call__(self, job: Job) -> Done:
        ref = VersionRef(
            source_id=UUID(job.payload["source_id"]),
            version=job.payload["version"],
            job_id=UUID(job.job_id),
            fence=job.lease.fencing_token,
        )
        try:
            report = await self._extract(ref, JobProgress(job=job))
        except asyncio.CancelledError:
            if job.interruption is Interruption.CANCELLED:
                await self._give_up(ref)
            raise
        except StaleHolder as error:
            raise LeaseIsLost from error
        except Unavailable as error:
            # The database is away: no fault of the job, and no attempt spent.
            raise Snooze(_OUTAGE.ceiling(1) + _OUTAGE.delay(4, rng=self._rng)) from error
        if report.gone:
            await self._withdraw(ref.job_id)
            raise Snooze(_GONE_DELAY)
        return _conclude(report)

    async def _withdraw(self, job_id: UUID) -> None:
        """Given back, the job then ends as CANCELLED.

        What took its source away has asked for that too, but in vain if the call that creates the job was so late that
        it came after.
        """
        try:
            await self._jobs.withdraw(job_id)
        except RemoteError as error:
            logger.warning("job_not_withdrawn", job_id=str(job_id), error=str(error))

    async def _give_up(self, ref: VersionRef) -> None:
        """The source says at once that its job was cancelled; if it cannot, the sweep for stranded sources will."""
        ending = Ending(state=SourceState.FAILED, reason=Reason.CANCELLED_BY_CALLER, message="the job was cancelled")
        try:
            await self._extract.give_up(ref, ending)
        except (StaleHolder, Unavailable) as error:
            logger.warning("cancelled_source_left_open", source_id=str(ref.source_id), error=error.message)


def _conclude(report: Report) -> Done:
    ending = report.ending
    if ending is None:
        raise Retry(f"{report.unfinished_count} of {report.chunk_count} chunks got no answer from the model")
    if ending.state in (SourceState.FAILED, SourceState.PARTIAL):
        # What succeeded is visible. The job fails so that a person can have the rest tried again.
        raise Fail(ending.message, reason=ending.reason)
    return Done(
        result={
            "state": ending.state.name,
            "chunk_count": report.chunk_count,
            "fact_count": report.fact_count,
            "reason": ending.reason.name if ending.reason else "",
            "message": ending.message,
        }
    )
