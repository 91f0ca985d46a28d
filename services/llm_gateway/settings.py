"""Settings of the llm_gateway, prefix `LLM_GATEWAY_`."""

from typing import Annotated

from pydantic import AfterValidator, Field, SecretStr
from pydantic_settings import SettingsConfigDict

from services.llm_gateway.adapters.openai.generation import ResponseFormat
from services.shared.settings import CommaList, SecretUrl, ServiceSettings


def _weights(value: tuple[str, ...]) -> tuple[str, ...]:
    for part in value:
        project, _, weight = part.partition("=")
        if not project or not weight.replace(".", "", 1).isdigit() or float(weight) <= 0:
            raise ValueError(f"{part}: give project=weight with a weight above 0")
    return value


class LlmGatewaySettings(ServiceSettings):
    model_config = SettingsConfigDict(env_prefix="LLM_GATEWAY_")

    port: int = Field(default=7404, ge=0, le=65535, description="Port of the gRPC server; 0 takes a free one.")
    metrics_port: int = Field(
        default=9404, ge=-1, le=65535, description="Port of /metrics and /healthz; 0 takes a free one, -1 serves none."
    )
    redis_url: SecretUrl = Field(description="Redis or Valkey, as redis://user:password@host:port/database.")
    result_hours: float = Field(default=24.0, gt=0, description="How long results are kept for their `request_id`.")
    lease_seconds: float = Field(
        default=15.0, ge=1, description="Silence after which another replica takes a running call over."
    )
    generation_seconds: float = Field(
        default=600.0, gt=0, description="Longest generation, waiting and retries included, whatever the caller allows."
    )

    queue_limit: int = Field(default=1000, ge=0, description="Requests that may wait for one model.")
    project_queue_limit: int = Field(
        default=500, ge=0, description="Requests of one project that may wait for one model."
    )
    project_weights: Annotated[CommaList, AfterValidator(_weights)] = Field(
        default=(), description="Shares of projects, as project=weight, …; a project that is not named has 1."
    )
    max_attempts: int = Field(default=3, ge=1, le=10, description="Calls to a provider per request.")

    dead_letter_days: float = Field(default=30.0, gt=0, description="How long dead letters are kept.")
    dead_letter_limit: int = Field(default=10_000, ge=1, description="Dead letters kept; beyond it the oldest go.")

    linguistic_processes: int = Field(
        default=1, ge=0, le=64, description="Processes of the embedded provider `linguistic`; 0 does not offer it."
    )
    wordllama: bool = Field(default=True, description="Offer the embedded embedding model `wordllama`.")

    openai_base_url: str = Field(
        default="", pattern=r"^$|^https?://\S+$", description="OpenAI-compatible endpoint, usually ending in /v1."
    )
    openai_model: str = Field(
        default="", description="Model that generates; with the base URL set it becomes the default of the gateway."
    )
    openai_api_key: SecretStr = Field(default=SecretStr(""), description="Key of the endpoint, if it wants one.")
    openai_response_format: ResponseFormat = Field(
        default=ResponseFormat.JSON_SCHEMA,
        description="How the endpoint takes schemas: json_schema, json_object, or none (in the prompt only).",
    )
    openai_concurrency: int = Field(default=32, ge=1, description="Calls to the endpoint at one time, per process.")
    openai_idle_seconds: float = Field(
        default=120.0, gt=0, description="Longest silence of the endpoint within a call, before its first byte too."
    )
    openai_embedding_model: str = Field(
        default="", description="Model that embeds; with the base URL set it becomes the default of the gateway."
    )
    openai_embedding_dimension: int = Field(
        default=0, ge=0, description="Dimension to ask the embedding model for; 0 takes its own."
    )
    openai_embedding_batch: int = Field(
        default=256, ge=1, le=2048, description="Texts per call to the embedding model."
    )

    def project_weight(self, project_id: str) -> float:
        weights = dict(part.split("=", 1) for part in self.project_weights)
        return float(weights.get(project_id, 1.0))
