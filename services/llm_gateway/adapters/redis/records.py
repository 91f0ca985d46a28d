"""Records of a generation as JSON: `[kind, fields…]`, short because a stream keeps one per token batch.

The numbers and the order of fields are stored for a day; append, never change them.
"""

from datetime import timedelta
from typing import Any

import orjson

from services.llm_gateway.application.ports import CancelRequested, Failed, HandedOver, Record
from services.llm_gateway.domain.calls import FinishReason, Usage
from services.llm_gateway.domain.errors import ModelNotFound, OutputInvalid, ProviderRefused, ProviderUnavailable
from services.llm_gateway.domain.frames import Delta, Done, Queued, Started, UsageReport
from services.shared.errors import DeadlineUnreachable, Reason, ResourceExhausted, ServiceError, Unavailable

_ERRORS: dict[Reason, type[ServiceError]] = {
    kind.reason: kind
    for kind in (
        ModelNotFound,
        ProviderRefused,
        OutputInvalid,
        ProviderUnavailable,
        ResourceExhausted,
        DeadlineUnreachable,
    )
}

HANDED_OVER = b'[["h"]]'
CANCEL_REQUESTED = b'[["c"]]'


def dump(records: list[Record]) -> bytes:
    return orjson.dumps([_fields(record) for record in records])


def load(data: bytes) -> list[Record]:
    return [_record(fields) for fields in orjson.loads(data)]


def _fields(record: Record) -> list[Any]:  # noqa: PLR0911 - one per kind
    match record:
        case Delta():
            return ["d", record.seq, record.text]
        case Started():
            return ["s", record.provider, record.model, record.attempt]
        case UsageReport():
            return ["u", *_usage_fields(record.usage)]
        case Done():
            return [
                "e",
                record.finish_reason,
                record.last_seq,
                record.model,
                record.repaired_output,
                *_usage_fields(record.usage),
            ]
        case Failed():
            error = record.error
            delay = error.retry_delay
            return [
                "x",
                int(error.reason),
                error.message,
                error.metadata,
                delay.total_seconds() if delay is not None else None,
            ]
        case HandedOver():
            return ["h"]
        case CancelRequested():
            return ["c"]
        case Queued():
            raise ValueError("the place in a queue is not stored")


def _record(fields: list[Any]) -> Record:  # noqa: PLR0911 - one per kind
    match fields:
        case ["d", seq, text]:
            return Delta(seq=seq, text=text)
        case ["s", provider, model, attempt]:
            return Started(provider=provider, model=model, attempt=attempt)
        case ["u", *usage]:
            return UsageReport(usage=_usage(usage))
        case ["e", reason, last_seq, model, repaired, *usage]:
            return Done(
                finish_reason=FinishReason(reason),
                usage=_usage(usage),
                last_seq=last_seq,
                model=model,
                repaired_output=repaired,
            )
        case ["x", reason, message, metadata, delay]:
            kind = _ERRORS.get(Reason(reason), Unavailable)
            retry_delay = timedelta(seconds=delay) if delay is not None else None
            return Failed(error=kind(message, metadata=metadata, retry_delay=retry_delay))
        case ["h"]:
            return HandedOver()
        case ["c"]:
            return CancelRequested()
        case _:
            raise ValueError(f"unknown record {fields[:1]}")


def _usage_fields(usage: Usage) -> list[Any]:
    return [
        usage.input_tokens,
        usage.output_tokens,
        usage.cached_input_tokens,
        usage.provider_calls,
        usage.estimated,
    ]


def _usage(fields: list[Any]) -> Usage:
    input_tokens, output_tokens, cached, calls, estimated = fields
    return Usage(
        input_tokens=input_tokens,
        output_tokens=output_tokens,
        cached_input_tokens=cached,
        provider_calls=calls,
        estimated=estimated,
    )
