"""What the scheduler refuses, and why.

ServiceError
├── PreconditionFailed
│   ├── LeaseLost           LEASE_LOST            a write of a worker that no longer holds the job
│   └── JobStateConflict    JOB_STATE_CONFLICT    a step that the job's state does not allow
├── RequestIdReused         REQUEST_ID_REUSED     the same identity with another spec
├── NotFound                RESOURCE_NOT_FOUND    no such job
└── ResumeTokenExpired      RESUME_TOKEN_EXPIRED  events older than those still kept
"""

from services.shared.errors import OutOfRange, Precondition, PreconditionFailed, Reason

__all__ = ["JobStateConflict", "LeaseLost", "ResumeTokenExpired"]


class LeaseLost(PreconditionFailed):
    reason = Reason.LEASE_LOST

    @classmethod
    def of(cls, *, job_id: str, fencing_token: int, current_fencing_token: int, state: str) -> "LeaseLost":
        """`state` and `current_fencing_token` are those of the job now; empty and 0 when it is gone."""
        return cls(
            f"lease {fencing_token} of job {job_id} is lost",
            metadata={
                "job_id": job_id,
                "fencing_token": fencing_token,
                "current_fencing_token": current_fencing_token,
                "state": state,
            },
        )


class JobStateConflict(PreconditionFailed):
    reason = Reason.JOB_STATE_CONFLICT

    @classmethod
    def of(cls, *, job_id: str, state: str, step: str) -> "JobStateConflict":
        description = f"job {job_id} is {state}, which does not allow it to {step}"
        return cls(
            description,
            metadata={"job_id": job_id, "state": state},
            preconditions=[Precondition(type="JOB_STATE", subject=f"job:{job_id}", description=description)],
        )


class ResumeTokenExpired(OutOfRange):
    @classmethod
    def of(cls, *, oldest_token: str) -> "ResumeTokenExpired":
        return cls(
            "the resume token is older than the events still kept; list again, then watch",
            metadata={"oldest_token": oldest_token},
        )
