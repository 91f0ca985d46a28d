"""Configuration of the scheduler, from `SCHEDULER_…` variables."""

from datetime import timedelta
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field
from pydantic_settings import SettingsConfigDict

from services.scheduler.domain.policy import DEFAULT_POLICIES, Policies, TypePolicy
from services.shared.settings import SecretUrl, ServiceSettings

_DEFAULT_TYPE = "*"

Seconds = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1, le=1000)]


class PolicyRules(BaseModel):
    """The rules of one type as JSON; what is not given stays as it is built in. Times are seconds."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    lease: Seconds | None = None
    heartbeat: Seconds | None = None
    total_deadline: Seconds | None = None
    backoff_base: Seconds | None = None
    backoff_cap: Seconds | None = None
    max_attempts: Count | None = None
    max_stalls: Count | None = None

    def over(self, built_in: TypePolicy) -> TypePolicy:
        return TypePolicy(
            lease_duration=_span(self.lease) or built_in.lease_duration,
            heartbeat_interval=_span(self.heartbeat) or built_in.heartbeat_interval,
            total_deadline=_span(self.total_deadline) or built_in.total_deadline,
            backoff_base=_span(self.backoff_base) or built_in.backoff_base,
            backoff_cap=_span(self.backoff_cap) or built_in.backoff_cap,
            max_attempts=self.max_attempts or built_in.max_attempts,
            max_stalls=self.max_stalls or built_in.max_stalls,
        )


def _span(seconds: float | None) -> timedelta | None:
    return None if seconds is None else timedelta(seconds=seconds)


class SchedulerSettings(ServiceSettings):
    model_config = SettingsConfigDict(env_prefix="SCHEDULER_")

    port: int = Field(default=7401, ge=0, le=65535, description="Port of the gRPC server; 0 takes a free one.")
    metrics_port: int = Field(
        default=9401, ge=-1, le=65535, description="Port of /metrics and /healthz; 0 takes a free one, -1 serves none."
    )
    max_concurrent_rpcs: int = Field(default=20_000, ge=1, description="Calls in flight per process, streams included.")
    database_url: SecretUrl = Field(description="`postgresql://…`; the schema is `scheduler`.")
    database_concurrency: int = Field(
        default=12, ge=2, le=200, description="Statements that run at once; two more connections are held in reserve."
    )
    type_policies: dict[str, PolicyRules] = Field(
        default_factory=dict[str, PolicyRules],
        description='Policies per type as JSON, for example `{"extract": {"lease": 600, "max_attempts": 3}}`; keys are '
        "`lease`, `heartbeat`, `total_deadline`, `backoff_base`, `backoff_cap` (seconds), `max_attempts` and "
        "`max_stalls`; the type `*` is every other one.",
    )
    ageing_seconds: float = Field(
        default=300.0, gt=0, description="Waiting time that makes up for one step of priority."
    )
    accept_timeout_seconds: float = Field(
        default=10.0, gt=0, description="Time within which a worker must accept a job that it was sent."
    )
    stream_grace_seconds: float = Field(
        default=5.0,
        gt=0,
        description="Time within which a worker must renew its leases after its stream broke.",
    )
    partition_seconds: int = Field(default=86_400, ge=60, description="Span of one partition of ended jobs.")
    retention_seconds: int = Field(default=7 * 86_400, ge=60, description="How long ended jobs are kept.")
    change_retention_seconds: int = Field(
        default=3600, ge=10, description="How long a broken WatchJobs stream can be resumed."
    )
    foreign_poll_seconds: float = Field(default=0.1, gt=0, description="How often to look for what other replicas did.")
    rescan_seconds: float = Field(
        default=30.0, gt=0, description="How often to look for ready jobs that every event missed."
    )
    statistics_seconds: float = Field(
        default=15.0, gt=0, description="How often the queue and duration metrics are refreshed."
    )

    @property
    def policies(self) -> Policies:
        """What is configured, on top of the built-in policies."""
        by_type = dict(DEFAULT_POLICIES)
        for name, rules in self.type_policies.items():
            by_type[name] = rules.over(DEFAULT_POLICIES.get(name, TypePolicy()))
        return Policies(by_type=by_type, default=by_type.pop(_DEFAULT_TYPE, TypePolicy()))
