"""Workers of the scheduler: write a handler, get leases, heartbeats, retries and drains for free.

    async def scrape(job: Job) -> Done:
        job.report(completed=1, total=3)
        return Done(result={"pages": 3})

    worker = Worker(channel, handlers={"scrape": scrape}, concurrency=10)
    await worker.run(drain)

A handler returns, or raises: `Fail` ends the job for good, `Retry` asks for another
attempt, `Snooze` gives the job back without spending one, any other exception is a
failed attempt. When the job is cancelled, its lease is lost or the worker drains, the
handler's task is cancelled: clean up, and let `CancelledError` through.
"""

from services.shared.worker.job import ChildJob, Done, Job
from services.shared.worker.outcomes import Fail, LeaseIsLost, Retry, Snooze
from services.shared.worker.worker import Handler, Worker

__all__ = ["ChildJob", "Done", "Fail", "Handler", "Job", "LeaseIsLost", "Retry", "Snooze", "Worker"]
