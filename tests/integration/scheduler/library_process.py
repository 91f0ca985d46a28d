"""A worker of the library in a process of its own: `library_process.py TARGET NAME CONCURRENCY HOLD_SECONDS`.

It drains on SIGTERM, and prints one JSON line per lease and per handler that came to its end.
"""

import asyncio
import json
import signal
import sys
import time
from datetime import timedelta

import structlog

from services.shared.grpc.channel import connect
from services.shared.lifecycle import Drain
from services.shared.worker import Done, Job, Worker

FINISH_WITHIN = timedelta(milliseconds=200)


async def main(target: str, name: str, concurrency: int, seconds: float) -> None:
    def say(event: str, job: Job) -> None:
        record = {"event": event, "worker": name, "job": job.job_id, "token": job.lease.fencing_token}
        print(json.dumps({"at": time.time(), **record}), flush=True)

    async def hold(job: Job) -> Done:
        say("leased", job)
        await asyncio.sleep(seconds)
        say("handled", job)
        return Done(result={"worker": name, "token": job.lease.fencing_token})

    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    drain = Drain()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, drain.start)
    async with connect(target) as channel:
        worker = Worker(
            channel,
            handlers={"extract": hold},
            concurrency=concurrency,
            worker_id=name,
            finish_within=FINISH_WITHIN,
        )
        await worker.run(drain)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3]), float(sys.argv[4])))
