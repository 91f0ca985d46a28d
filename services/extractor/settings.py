"""Settings of the extractor, `EXTRACTOR_…` in the environment."""

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from services.shared.settings import SecretUrl, ServiceSettings

_MIB = 1 << 20


class ExtractorSettings(ServiceSettings):
    model_config = SettingsConfigDict(env_prefix="EXTRACTOR_")

    port: int = Field(default=7402, ge=0, le=65535, description="Port of the gRPC server; 0 takes a free one.")
    metrics_port: int = Field(
        default=9402, ge=-1, le=65535, description="Port of /metrics and /healthz; 0 takes a free one, -1 serves none."
    )

    database_url: SecretUrl = Field(description="PostgreSQL, as postgresql://user:password@host:port/database.")
    database_concurrency: int = Field(default=16, ge=4, le=200, description="Transactions open at once per process.")
    scheduler_address: str = Field(default="127.0.0.1:7401", description="host:port of the scheduler.")
    llm_gateway_address: str = Field(default="127.0.0.1:7404", description="host:port of the model gateway.")
    indexer_address: str = Field(default="127.0.0.1:7403", description="host:port of the indexer.")

    job_concurrency: int = Field(default=8, ge=1, le=1000, description="Sources extracted at once per process.")
    chunk_concurrency: int = Field(
        default=64, ge=1, le=2000, description="Model calls under way at once per process, over all sources."
    )
    chunk_attempts: int = Field(
        default=3, ge=1, le=10, description="Attempts of a job in which a chunk may get no answer before it is FAILED."
    )
    model_timeout_seconds: float = Field(default=300.0, gt=0, description="Deadline of one model call.")
    model_patience_seconds: float = Field(
        default=120.0, ge=0, description="How long a chunk's call is repeated while the gateway is away."
    )

    conversion_processes: int = Field(default=1, ge=1, le=16, description="Processes that read documents as text.")
    conversion_timeout_seconds: float = Field(default=120.0, gt=0, description="Longest conversion of one document.")
    max_source_bytes: int = Field(
        default=64 * _MIB, ge=1024, le=512 * _MIB, description="Largest document that is taken in."
    )
    max_call_bytes: int = Field(
        default=24 * _MIB, ge=1024, le=32 * _MIB, description="Documents of one CreateSources call together at most."
    )
    upload_concurrency: int = Field(
        default=2, ge=1, le=64, description="Uploads received at once; further ones wait by flow control."
    )

    relay_batch_size: int = Field(default=500, ge=1, le=1000, description="Intents leased from the outbox at once.")
    relay_max_in_flight: int = Field(
        default=4000, ge=1, description="Intents sent to the indexer without an acknowledgement at most."
    )
    relay_lease_seconds: float = Field(
        default=60.0, ge=1, description="After this time an intent of a relay that vanished is sent by another one."
    )
    relay_poll_seconds: float = Field(
        default=1.0, gt=0, le=60, description="How often the outbox is looked at when nothing says that it has news."
    )
    keep_vectors: bool = Field(
        default=True,
        description="Keep the vectors of facts in PostgreSQL, so that a lost index is filled again without a model.",
    )
    orphan_after_seconds: float = Field(
        default=300.0, gt=0, description="Age at which a fact that the index has not acknowledged counts as orphaned."
    )
    stranded_after_seconds: float = Field(
        default=300.0,
        gt=0,
        description="After so long without movement the scheduler is asked what became of a source's job.",
    )

    reconcile_period_seconds: float = Field(
        default=3600.0, gt=0, description="How often facts and points are compared without being asked for."
    )
    reconcile_look_seconds: float = Field(
        default=15.0,
        gt=0,
        description="How often to look whether a comparison is due: by its period, or because a store was restored.",
    )
    reconcile_settle_seconds: float = Field(
        default=60.0,
        ge=0,
        description="How long a write that was sent may take to land. After a store was restored or the index lost "
        "something, the comparison that counts begins so much later, and consistency tokens wait for it. Longer than "
        "INDEXER_EMBED_TIMEOUT_SECONDS and INDEXER_QDRANT_TIMEOUT_SECONDS together.",
    )
    reconcile_points_per_second: int = Field(
        default=0, ge=0, description="Points that a reconciliation reads per second at most; 0 sets no limit."
    )
