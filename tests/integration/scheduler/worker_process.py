"""A worker in a process of its own, to be stopped, continued and killed: `worker_process.py ADDRESS NAME HOLD_SECONDS`.

It completes each job after a while, whatever became of its lease, and prints one JSON
line per stream, per lease and per answer.
"""

import asyncio
import json
import sys
import time

import grpc.aio
from scristill.scheduler.v1 import job_pb2
from scristill.scheduler.v1 import worker_service_pb2 as pb
from scristill.scheduler.v1.worker_service_pb2_grpc import WorkerServiceStub


def say(**fields) -> None:
    sys.stdout.write(json.dumps({"at": time.time(), **fields}) + "\n")
    sys.stdout.flush()


async def hold(stub, name: str, job: job_pb2.LeasedJob, seconds: float) -> None:
    token = job.lease.fencing_token
    say(event="leased", worker=name, job=job.lease.job_id, token=token)
    await asyncio.sleep(seconds)
    completion = pb.JobCompletion(lease=job.lease, result=json.dumps({"worker": name, "token": token}))
    while True:
        try:
            response = await stub.CompleteJobs(
                pb.CompleteJobsRequest(worker_id=name, completions=[completion]), timeout=10
            )
        except grpc.aio.AioRpcError:
            await asyncio.sleep(0.1)
        else:
            accepted = response.outcomes[0].state == job_pb2.JOB_STATE_SUCCEEDED
            say(event="answered", worker=name, job=job.lease.job_id, token=token, accepted=accepted)
            return


async def main(address: str, name: str, seconds: float) -> None:
    async with grpc.aio.insecure_channel(address) as channel, asyncio.TaskGroup() as tasks:
        stub = WorkerServiceStub(channel)
        while True:
            request = pb.LeaseJobsRequest(worker_id=name, types=["extract"], max_in_flight=10)
            try:
                async for frame in stub.LeaseJobs(request):
                    if frame.HasField("opened"):
                        say(event="opened", worker=name)
                    for job in frame.leases.jobs:
                        tasks.create_task(hold(stub, name, job, seconds))
            except grpc.aio.AioRpcError:
                await asyncio.sleep(0.1)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], float(sys.argv[3])))
