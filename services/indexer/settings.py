"""Settings of the indexer, `INDEXER_…` in the environment."""

from typing import Annotated

from pydantic import Field, SecretStr
from pydantic_settings import SettingsConfigDict

from services.shared.settings import ServiceSettings


class IndexerSettings(ServiceSettings):
    model_config = SettingsConfigDict(env_prefix="INDEXER_")

    port: int = Field(default=7403, ge=0, le=65535, description="Port of the gRPC server; 0 takes a free one.")
    metrics_port: int = Field(
        default=9403, ge=-1, le=65535, description="Port of /metrics and /healthz; 0 takes a free one, -1 serves none."
    )

    qdrant_url: Annotated[str, Field(pattern=r"^https?://")] = Field(
        default="http://127.0.0.1:6334", description="gRPC address of Qdrant; https for TLS."
    )
    qdrant_api_key: SecretStr = Field(default=SecretStr(""), description="API key of Qdrant; empty sends none.")
    qdrant_timeout_seconds: float = Field(
        default=10.0, ge=2, description="Deadline of one call to Qdrant; after it the outcome of a write is unknown."
    )
    collection_prefix: str = Field(
        default="facts",
        pattern=r"^[a-z][a-z0-9_-]{0,62}$",
        description="Alias of the epoch that is searched; collections are `<prefix>_e<epoch>_<random>`.",
    )
    epoch_view_seconds: float = Field(
        default=5.0, gt=0, le=60, description="How old a replica's knowledge of the epochs may be when it writes."
    )

    backfill_interval_seconds: float = Field(
        default=5.0, gt=0, description="Pause between passes that fill an epoch that is being built."
    )

    llm_gateway_address: str = Field(default="127.0.0.1:7404", description="host:port of the model gateway.")
    embedding_model: str = Field(
        default="", description="Embedding model of the first epoch; empty takes the gateway's default."
    )
    embed_timeout_seconds: float = Field(default=30.0, gt=0, description="Deadline of one Embed call.")
    embed_batch_size: int = Field(default=128, ge=1, le=1024, description="Texts in one Embed call at most.")
    embed_concurrency: int = Field(default=4, ge=1, le=64, description="Embed calls for writes in flight at most.")

    batch_size: int = Field(default=256, ge=1, le=1000, description="Intents written to Qdrant in one request at most.")
    batch_linger_ms: int = Field(
        default=3, ge=0, le=1000, description="How long an intent waits for others to share its batch."
    )
    batch_concurrency: int = Field(default=4, ge=1, le=64, description="Batches under way at one time.")
    max_in_flight: int = Field(
        default=2000, ge=1, description="Intents of one stream without an acknowledgement; then it is not read further."
    )
    max_pending: int = Field(
        default=10_000,
        ge=1,
        description="Intents of all streams without an acknowledgement; then none is read further.",
    )
    max_content_bytes: int = Field(
        default=131_072, ge=1024, description="Largest content of one fact; a larger one is rejected with TOO_LARGE."
    )

    sparse_language: str = Field(
        default="english", description="Language of the stop words and the stemmer of BM25; words of all scripts match."
    )
    sparse_average_length: float = Field(
        default=20.0, gt=0, description="Words of an average statement, for BM25's normalisation by length."
    )
    search_candidates: int = Field(
        default=100, ge=10, le=2000, description="Hits of each retriever that are fused; paging ends with them."
    )
    search_rrf_k: int = Field(
        default=5, ge=1, le=1000, description="Constant of reciprocal rank fusion; higher flattens the first ranks."
    )
    search_timeout_seconds: float = Field(default=5.0, gt=0, description="Deadline of a search in Qdrant.")

    scan_page_size: int = Field(default=4000, ge=10, le=20_000, description="Points read at once by a digest scan.")
    tombstone_retention_hours: float = Field(
        default=168.0,
        gt=0,
        description="Age at which tombstones go; must exceed the longest redelivery of an intent, and twice "
        "EXTRACTOR_RECONCILE_SETTLE_SECONDS.",
    )
    tombstone_interval_seconds: float = Field(
        default=600.0, gt=0, description="Pause between sweeps for old tombstones."
    )
