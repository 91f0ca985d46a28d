"""The indexer's bidirectional stream as a session."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC
from typing import Any
from uuid import UUID

import grpc.aio
from google.protobuf import timestamp_pb2
from scristill.indexer.v1 import fact_pb2
from scristill.indexer.v1 import indexer_service_pb2 as pb
from scristill.indexer.v1.indexer_service_pb2_grpc import IndexerServiceStub

from services.extractor.domain.outbox import Acknowledgement, FactContent, FactIntent, Operation, Outcome
from services.shared.errors import Code, RemoteError
from services.shared.grpc.errors import from_item_failure, remote_errors
from services.shared.grpc.floats import fill_floats, read_floats

PEER = "indexer"

# The contract allows 4 MiB and 1,000 intents in a frame.
_MAX_FRAME_BYTES = 3 << 20
_MAX_FRAME_INTENTS = 1000


class IndexerClient:
    """With `return_vectors` the acknowledgements carry the vectors that the indexer made."""

    def __init__(self, channel: grpc.aio.Channel, *, client_id: str, return_vectors: bool) -> None:
        self._stub = IndexerServiceStub(channel)
        self._open = pb.IndexStreamOpen(client_id=client_id, return_vectors=return_vectors)

    @asynccontextmanager
    async def session(self) -> AsyncGenerator["IndexStream"]:
        with remote_errors(PEER):
            call: Any = self._stub.IndexFacts()
            try:
                await call.write(pb.IndexFactsRequest(open=self._open))
                first = await call.read()
            except BaseException:
                call.cancel()
                raise
        if first is grpc.aio.EOF or first.WhichOneof("frame") != "opened":
            call.cancel()
            raise RemoteError(peer=PEER, code=Code.UNAVAILABLE, message="the stream did not open")
        try:
            yield IndexStream(call, max_in_flight=first.opened.max_in_flight)
        finally:
            call.cancel()


class IndexStream:
    def __init__(self, call: Any, *, max_in_flight: int) -> None:
        self._call = call
        self.max_in_flight = max_in_flight

    async def send(self, intents: Sequence[FactIntent]) -> None:
        with remote_errors(PEER):
            for frame in _frames(intents):
                try:
                    await self._call.write(pb.IndexFactsRequest(batch=pb.IntentBatch(intents=frame)))
                except asyncio.InvalidStateError as error:
                    raise RemoteError(peer=PEER, code=Code.UNAVAILABLE, message="the stream has ended") from error

    async def finish(self) -> None:
        with remote_errors(PEER):
            await self._call.done_writing()

    async def acknowledgements(self) -> AsyncIterator[Sequence[Acknowledgement]]:
        with remote_errors(PEER):
            while (frame := await self._call.read()) is not grpc.aio.EOF:
                match frame.WhichOneof("frame"):
                    case "acks":
                        yield [_acknowledgement(ack) for ack in frame.acks.acks]
                    case "draining":
                        yield []
                    case "done":
                        return
                    case _:
                        pass
        raise RemoteError(peer=PEER, code=Code.UNAVAILABLE, message="the stream ended without its last frame")


def _frames(intents: Sequence[FactIntent]) -> Iterator[list[fact_pb2.FactIntent]]:
    frame: list[fact_pb2.FactIntent] = []
    size = 0
    for intent in intents:
        message = _intent(intent)
        weight = message.ByteSize()
        if frame and (size + weight > _MAX_FRAME_BYTES or len(frame) == _MAX_FRAME_INTENTS):
            yield frame
            frame, size = [], 0
        frame.append(message)
        size += weight
    if frame:
        yield frame


def _intent(leased: FactIntent) -> fact_pb2.FactIntent:
    intent = leased.intent
    message = fact_pb2.FactIntent(
        fact_id=str(intent.key),
        version=intent.version,
        operation=fact_pb2.INTENT_OPERATION_UPSERT
        if intent.operation is Operation.UPSERT
        else fact_pb2.INTENT_OPERATION_DELETE,
        project_id=str(intent.project_id),
        source_id=str(intent.source_id),
        content_hash=leased.content_hash,
        content=_content(leased.content) if leased.content else None,
        traceparent=intent.traceparent,
    )
    for model, values in leased.vectors.items():
        fill_floats(message.vectors.add(embedding_model=model), fact_pb2.KnownVector.VALUES_FIELD_NUMBER, values)
    return message


def _content(content: FactContent) -> fact_pb2.FactContent:
    extract_time = timestamp_pb2.Timestamp()
    extract_time.FromDatetime(content.extract_time.astimezone(UTC))
    return fact_pb2.FactContent(
        statement=content.statement,
        evidence=fact_pb2.Evidence(
            quote=content.quote,
            start=content.start,
            end=content.end,
            context_before=content.context_before,
            context_after=content.context_after,
        ),
        group=content.group,
        category=content.category,
        fields={value.name: value.value for value in content.values},
        entities=content.entities,
        confidence=content.confidence,
        source_title=content.source_title,
        source_uri=content.source_uri,
        source_group=content.source_group,
        source_version=content.source_version,
        extract_time=extract_time,
    )


def _acknowledgement(ack: fact_pb2.IntentAck) -> Acknowledgement:
    return Acknowledgement(
        fact_id=UUID(ack.fact_id),
        version=ack.version,
        outcome=Outcome(ack.outcome),
        embedding_id=UUID(ack.embedding_id) if ack.embedding_id else None,
        epoch=ack.embedding_epoch or None,
        failure=from_item_failure(ack.failure, peer=PEER) if ack.HasField("failure") else None,
        vectors={each.embedding_model: read_floats(each, each.values).tobytes() for each in ack.vectors},
    )
