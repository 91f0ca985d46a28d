"""Protobuf to values and back; no protobuf type passes below this module."""

import hashlib
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta

from google.protobuf import duration_pb2, timestamp_pb2
from scristill.errors.v1 import error_reason_pb2
from scristill.llm_gateway.v1 import llm_gateway_service_pb2 as pb
from scristill.llm_gateway.v1 import model_call_pb2 as call_pb

from services.llm_gateway.application.capacity import Capacity
from services.llm_gateway.application.catalogue import Offer
from services.llm_gateway.application.embed import Embedded
from services.llm_gateway.application.scopes import DeletedScope
from services.llm_gateway.domain.calls import (
    ChatMessage,
    Document,
    FinishReason,
    GenerateCall,
    JsonSchema,
    Operation,
    Prompt,
    Role,
    Sampling,
    Usage,
)
from services.llm_gateway.domain.errors import TextEmpty
from services.llm_gateway.domain.frames import Delta, Done, Frame, Queued, Started, UsageReport
from services.llm_gateway.domain.records import DeadLetter, FailedCall, UsageRow
from services.shared.errors import Reason
from services.shared.grpc.errors import to_item_failure
from services.shared.grpc.floats import fill_floats

_ROLES = {call_pb.CHAT_ROLE_USER: Role.USER, call_pb.CHAT_ROLE_ASSISTANT: Role.ASSISTANT}
_FINISH_REASONS = {
    FinishReason.STOP: call_pb.FINISH_REASON_STOP,
    FinishReason.LENGTH: call_pb.FINISH_REASON_LENGTH,
    FinishReason.CONTENT_FILTER: call_pb.FINISH_REASON_CONTENT_FILTER,
}
_OPERATIONS = {
    Operation.GENERATE: call_pb.MODEL_OPERATION_GENERATE,
    Operation.EMBED: call_pb.MODEL_OPERATION_EMBED,
}


def generate_call(request: pb.GenerateRequest) -> GenerateCall:
    sampling = request.sampling
    output_format = request.output_format.json_schema
    return GenerateCall(
        request_id=_request_id(request.request_id),
        project_id=request.project_id,
        model=request.model,
        prompt=_prompt(request.prompt),
        sampling=Sampling(
            temperature=sampling.temperature,
            max_output_tokens=sampling.max_output_tokens,
            seed=sampling.seed,
        )
        if request.HasField("sampling")
        else None,
        output_format=JsonSchema(name=output_format.name, schema=output_format.schema)
        if request.output_format.HasField("json_schema")
        else None,
        priority=request.priority,
        scope=request.scope,
        fingerprint=_fingerprint(request),
    )


def request_ids(given: Iterable[str]) -> list[str]:
    return [_request_id(each) for each in given]


def _request_id(given: str) -> str:
    """UUIDs are the same in capitals."""
    return given.lower()


def _prompt(prompt: call_pb.Prompt) -> Prompt:
    return Prompt(
        system=prompt.system,
        messages=tuple(ChatMessage(role=_ROLES[message.role], text=message.text) for message in prompt.messages),
        documents=tuple(Document(document_id=each.document_id, text=each.text) for each in prompt.documents),
    )


def _fingerprint(request: pb.GenerateRequest) -> str:
    """Of what is asked, who pays and who owns it. Priority, resumption and detachment may change in a repetition."""
    digest = hashlib.blake2b(digest_size=16)
    for part in (
        request.project_id.encode(),
        request.model.encode(),
        request.prompt.SerializeToString(deterministic=True),
        request.sampling.SerializeToString(deterministic=True),
        request.output_format.SerializeToString(deterministic=True),
        # Calls without a scope keep the fingerprint that they had before there were scopes.
        *([request.scope.encode()] if request.scope else ()),
    ):
        digest.update(len(part).to_bytes(8))
        digest.update(part)
    return digest.hexdigest()


def generate_response(frame: Frame) -> pb.GenerateResponse:
    match frame:
        case Delta():
            return pb.GenerateResponse(delta=pb.GenerationDelta(seq=frame.seq, text=frame.text))
        case Queued():
            wait = frame.predicted_wait
            return pb.GenerateResponse(
                queued=pb.GenerationQueued(
                    position=frame.position, predicted_wait=_duration(wait) if wait is not None else None
                )
            )
        case Started():
            return pb.GenerateResponse(
                started=pb.GenerationStarted(
                    provider=frame.provider, model=frame.model, attempt=frame.attempt, stored=frame.stored
                )
            )
        case UsageReport():
            return pb.GenerateResponse(usage=token_usage(frame.usage))
        case Done():
            return pb.GenerateResponse(
                done=pb.GenerationDone(
                    finish_reason=_FINISH_REASONS[frame.finish_reason],
                    usage=token_usage(frame.usage),
                    last_seq=frame.last_seq,
                    repaired_output=frame.repaired_output,
                    model=frame.model,
                )
            )


def token_usage(usage: Usage) -> call_pb.TokenUsage:
    return call_pb.TokenUsage(
        input_tokens=usage.input_tokens,
        output_tokens=usage.output_tokens,
        cached_input_tokens=usage.cached_input_tokens,
        provider_calls=usage.provider_calls,
        estimated=usage.estimated,
    )


def embed_response(embedded: Embedded) -> pb.EmbedResponse:
    response = pb.EmbedResponse(model=embedded.model, dimension=embedded.dimension, usage=token_usage(embedded.usage))
    response.embeddings.extend(_embedding(vector) for vector in embedded.vectors)
    return response


def _embedding(vector: bytes | TextEmpty) -> pb.Embedding:
    if isinstance(vector, TextEmpty):
        return pb.Embedding(failure=to_item_failure(vector))
    return fill_floats(pb.Embedding(), pb.Embedding.VALUES_FIELD_NUMBER, vector)


def model(offer: Offer) -> call_pb.Model:
    info = offer.model
    return call_pb.Model(
        model=info.name,
        provider=info.provider,
        operations=[_OPERATIONS[info.operation]],
        dimension=info.dimension,
        context_tokens=info.context_tokens,
        enforces_json_schema=info.enforces_json_schema,
        is_default=offer.is_default,
    )


def moment(timestamp: timestamp_pb2.Timestamp) -> datetime:
    return timestamp.ToDatetime(tzinfo=UTC)


def operation(value: call_pb.ModelOperation.ValueType) -> Operation:
    return next(each for each, number in _OPERATIONS.items() if number == value)


def capacity(found: Capacity) -> pb.WatchCapacityResponse:
    wait = found.predicted_wait
    message = pb.Capacity(
        concurrency_limit=found.concurrency_limit,
        in_flight_count=found.in_flight,
        queued_count=found.queued,
        queue_limit=found.queue_limit,
        gate_until_time=_timestamp(found.gate_until) if found.gate_until is not None else None,
        predicted_wait=_duration(wait) if wait is not None else None,
    )
    return pb.WatchCapacityResponse(capacity=message)


def scope_deletion(deleted: DeletedScope) -> pb.CachedResultsDeletion:
    return pb.CachedResultsDeletion(
        scope=deleted.scope,
        result_count=deleted.result_count,
        dead_letter_count=deleted.dead_letter_count,
        failure=to_item_failure(deleted.failure) if deleted.failure else None,
    )


def usage_row(row: UsageRow) -> pb.UsageRow:
    return pb.UsageRow(
        project_id=row.project_id, model=row.model, request_count=row.requests, usage=token_usage(row.usage)
    )


def dead_letter(letter: DeadLetter) -> call_pb.DeadLetter:
    call = letter.call
    message = call_pb.DeadLetter(
        request_id=call.request_id,
        project_id=call.project_id,
        model=call.model,
        prompt=_prompt_message(call.prompt),
        attempts=[_failed_call(each) for each in letter.attempts],
        reason=_reason(letter.reason),
        fail_time=_timestamp(letter.fail_time),
        usage=token_usage(letter.usage),
        scope=call.scope,
    )
    if call.sampling is not None:
        message.sampling.temperature = call.sampling.temperature
        message.sampling.max_output_tokens = call.sampling.max_output_tokens
        message.sampling.seed = call.sampling.seed
        message.sampling.SetInParent()
    if call.output_format is not None:
        message.output_format.json_schema.name = call.output_format.name
        message.output_format.json_schema.schema = call.output_format.schema
    return message


def _prompt_message(prompt: Prompt) -> call_pb.Prompt:
    roles = {role: number for number, role in _ROLES.items()}
    return call_pb.Prompt(
        system=prompt.system,
        messages=[call_pb.ChatMessage(role=roles[each.role], text=each.text) for each in prompt.messages],
        documents=[call_pb.Document(document_id=each.document_id, text=each.text) for each in prompt.documents],
    )


def _failed_call(failed: FailedCall) -> call_pb.FailedCall:
    return call_pb.FailedCall(
        provider=failed.provider,
        model=failed.model,
        reason=_reason(failed.reason),
        message=failed.message,
        provider_status=failed.provider_status,
        output=failed.output,
        fail_time=_timestamp(failed.fail_time),
    )


def _reason(reason: Reason) -> error_reason_pb2.ErrorReason.ValueType:
    return error_reason_pb2.ErrorReason.ValueType(reason)


def _timestamp(moment: datetime) -> timestamp_pb2.Timestamp:
    timestamp = timestamp_pb2.Timestamp()
    timestamp.FromDatetime(moment)
    return timestamp


def _duration(delay: timedelta) -> duration_pb2.Duration:
    duration = duration_pb2.Duration()
    duration.FromTimedelta(delay)
    return duration
