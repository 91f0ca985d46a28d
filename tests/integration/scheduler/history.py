"""Judges what really happened, from the records of the workers and the last states of the jobs."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

from scristill.scheduler.v1 import job_pb2

Record = dict[str, Any]


def check(records: Iterable[Record], jobs: Sequence[job_pb2.Job]) -> None:
    """No job lost, none accepted twice or with a lease that was not the newest, tokens never given twice."""
    leased: dict[str, list[Record]] = defaultdict(list)
    accepted: dict[str, list[Record]] = defaultdict(list)
    for record in records:
        if record["event"] == "leased":
            leased[record["job"]].append(record)
        elif record["event"] == "answered" and record["accepted"]:
            accepted[record["job"]].append(record)
    for job in jobs:
        assert job.state == job_pb2.JOB_STATE_SUCCEEDED, f"{job.job_id} was lost"
        tokens = [record["token"] for record in leased[job.job_id]]
        assert len(tokens) == len(set(tokens)), f"{job.job_id}: a token was given twice"
        assert len({record["token"] for record in accepted[job.job_id]}) <= 1, f"{job.job_id} was completed twice"
        for record in accepted[job.job_id]:
            assert record["token"] == job.fencing_token, f"{job.job_id}: a stale completion was accepted"
            assert str(record["token"]) in job.result
