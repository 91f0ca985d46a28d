"""Embeddings from the model gateway."""

from collections.abc import Sequence

from scristill.llm_gateway.v1 import llm_gateway_service_pb2 as pb
from scristill.llm_gateway.v1 import llm_gateway_service_pb2_grpc as pb_grpc

from services.indexer.application.ports import Embedded
from services.indexer.domain.errors import ModelNotFound, TextRefused
from services.indexer.domain.fact import Vector
from services.shared.errors import Reason, RemoteError, ServiceError, Unavailable
from services.shared.grpc.channel import Channel
from services.shared.grpc.errors import from_item_failure, remote_errors
from services.shared.grpc.floats import read_floats

PEER = "llm_gateway"


class GatewayEmbedder:
    """`timeout_seconds` holds for one call."""

    def __init__(self, channel: Channel, *, timeout_seconds: float) -> None:
        self._stub: pb_grpc.LlmGatewayServiceAsyncStub = pb_grpc.LlmGatewayServiceStub(channel)
        self._timeout = timeout_seconds

    async def embed(self, texts: Sequence[str], *, project_id: str, model: str, priority: int) -> Embedded:
        request = pb.EmbedRequest(project_id=project_id, model=model, texts=texts, priority=priority)
        try:
            with remote_errors(PEER):
                response = await self._stub.Embed(request, timeout=self._timeout)
        except RemoteError as error:
            raise _call_failure(error) from error
        if len(response.embeddings) != len(texts):
            raise Unavailable.of(PEER)
        return Embedded(
            model=response.model,
            dimension=response.dimension,
            vectors=[_vector(each) for each in response.embeddings],
        )


def _call_failure(error: RemoteError) -> ServiceError:
    """A refused call says nothing about a single text, so all of it may be sent again."""
    if error.reason is Reason.MODEL_NOT_FOUND:
        return ModelNotFound.of_model(error.metadata.get("model", ""))
    return Unavailable.of(PEER, retry_delay=error.retry_delay)


def _vector(embedding: pb.Embedding) -> Vector | ServiceError:
    if not embedding.HasField("failure"):
        return read_floats(embedding, embedding.values)
    failure = from_item_failure(embedding.failure, peer=PEER)
    if failure.transient:
        return Unavailable.of(PEER, retry_delay=failure.retry_delay)
    return TextRefused.of_reason(failure.reason.name)
