"""The model, asked through the gateway: one streamed call per chunk. What is kept of the calls can be forgotten."""

import json
from collections.abc import Sequence
from datetime import timedelta
from typing import Any, cast

import grpc.aio
import orjson
from scristill.llm_gateway.v1 import llm_gateway_service_pb2 as pb
from scristill.llm_gateway.v1 import model_call_pb2
from scristill.llm_gateway.v1.llm_gateway_service_pb2_grpc import LlmGatewayServiceStub

from services.extractor.application.ports import ForgottenResults, ModelAnswer, ModelRequest
from services.shared.errors import Code, Reason, RemoteError
from services.shared.grpc.errors import from_item_failure, remote_errors

PEER = "llm_gateway"

_PRIORITY = 5
_FORGET_SECONDS = 30.0


class GatewayModel:
    """Calls go on at the provider when this process dies, so that its successor finds the answer."""

    def __init__(self, channel: grpc.aio.Channel, *, timeout: timedelta) -> None:
        self._stub = LlmGatewayServiceStub(channel)
        self._timeout = timeout.total_seconds()

    async def ask(self, request: ModelRequest) -> ModelAnswer:
        output: list[str] = []
        with remote_errors(PEER):
            async for frame in self._stub.Generate(_request(request), timeout=self._timeout):
                match frame.WhichOneof("frame"):
                    case "started":
                        output.clear()
                    case "delta":
                        output.append(frame.delta.text)
                    case "done":
                        text = frame.done.repaired_output or "".join(output)
                        return ModelAnswer(answer=_parse(text), model=frame.done.model)
                    case _:
                        pass
        raise RemoteError(peer=PEER, code=Code.UNAVAILABLE, message="the stream ended without its last frame")


class GatewayCache:
    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._stub = LlmGatewayServiceStub(channel)

    async def forget(self, scopes: Sequence[str]) -> list[ForgottenResults | RemoteError]:
        with remote_errors(PEER):
            response = await self._stub.DeleteCachedResults(
                pb.DeleteCachedResultsRequest(scopes=scopes), timeout=_FORGET_SECONDS
            )
        return [_forgotten(result) for result in response.results]


def _forgotten(result: pb.CachedResultsDeletion) -> ForgottenResults | RemoteError:
    if result.HasField("failure"):
        return from_item_failure(result.failure, peer=PEER)
    return ForgottenResults(result_count=result.result_count, dead_letter_count=result.dead_letter_count)


def _request(request: ModelRequest) -> pb.GenerateRequest:
    return pb.GenerateRequest(
        request_id=str(request.call_id),
        scope=request.scope,
        project_id=str(request.project_id),
        model=request.model,
        prompt=model_call_pb2.Prompt(
            system=request.instructions,
            documents=[model_call_pb2.Document(document_id="source", text=request.text)],
        ),
        output_format=model_call_pb2.OutputFormat(
            json_schema=model_call_pb2.JsonSchemaFormat(name="extraction", schema=request.output_schema)
        ),
        priority=_PRIORITY,
        detach=True,
    )


def _parse(output: str) -> dict[str, Any]:
    try:
        answer: Any = orjson.loads(output)
    except json.JSONDecodeError as error:
        raise _invalid("the model's output is not JSON") from error
    if not isinstance(answer, dict):
        raise _invalid("the model's output is not an object")
    # PostgreSQL holds no NUL, and no text that a model was given has one.
    return _without_nul(answer) if "\\u0000" in output else cast("dict[str, Any]", answer)


def _without_nul(value: Any) -> Any:
    match value:
        case str():
            return value.replace("\x00", "")
        case dict():
            return {key: _without_nul(each) for key, each in cast("dict[str, Any]", value).items()}
        case list():
            return [_without_nul(each) for each in cast("list[Any]", value)]
        case _:
            return value


def _invalid(message: str) -> RemoteError:
    return RemoteError(peer=PEER, code=Code.FAILED_PRECONDITION, reason=Reason.OUTPUT_INVALID, message=message)
