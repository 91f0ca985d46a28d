"""Facts and intents for the indexer's tests, and a client that speaks its stream."""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from uuid import UUID, uuid4, uuid5

import grpc.aio
from scristill.indexer.v1 import fact_pb2, indexer_service_pb2, indexer_service_pb2_grpc, search_service_pb2_grpc

UPSERT = fact_pb2.INTENT_OPERATION_UPSERT
DELETE = fact_pb2.INTENT_OPERATION_DELETE
APPLIED = fact_pb2.INTENT_OUTCOME_APPLIED
SUPERSEDED = fact_pb2.INTENT_OUTCOME_SUPERSEDED
REJECTED = fact_pb2.INTENT_OUTCOME_REJECTED
RETRY = fact_pb2.INTENT_OUTCOME_RETRY

PROJECT = "018f0000-0000-7000-8000-000000000001"
SOURCE = "018f0000-0000-7000-8000-0000000000aa"


def fact_id(number: int) -> str:
    return str(uuid5(UUID(PROJECT), str(number)))


def content_hash(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


def upsert(fact: str, version: int = 1, statement: str = "Water boils at 100 degrees.", **more) -> fact_pb2.FactIntent:
    content = {name: more.pop(name) for name in list(more) if name in fact_pb2.FactContent.DESCRIPTOR.fields_by_name}
    return fact_pb2.FactIntent(
        **{
            "fact_id": fact,
            "version": version,
            "operation": UPSERT,
            "project_id": PROJECT,
            "source_id": SOURCE,
            "content_hash": content_hash(f"{statement}:{sorted(content)}"),
            "content": fact_pb2.FactContent(statement=statement, **({"confidence": 0.9, "group": "facts"} | content)),
        }
        | more
    )


def delete(fact: str, version: int, **more) -> fact_pb2.FactIntent:
    return fact_pb2.FactIntent(
        **{
            "fact_id": fact,
            "version": version,
            "operation": DELETE,
            "project_id": PROJECT,
            "source_id": SOURCE,
            "content_hash": content_hash("deleted"),
        }
        | more
    )


def known(model: str, values: Iterable[float]) -> list[fact_pb2.KnownVector]:
    return [fact_pb2.KnownVector(embedding_model=model, values=values)]


def open_frame(client_id: str = "tests", *, return_vectors: bool = False) -> indexer_service_pb2.IndexFactsRequest:
    opening = indexer_service_pb2.IndexStreamOpen(client_id=client_id, return_vectors=return_vectors)
    return indexer_service_pb2.IndexFactsRequest(open=opening)


def batch_frame(intents: Iterable[fact_pb2.FactIntent]) -> indexer_service_pb2.IndexFactsRequest:
    return indexer_service_pb2.IndexFactsRequest(batch=indexer_service_pb2.IntentBatch(intents=intents))


class IndexerClient:
    """The stubs, and `apply`: one stream from `open` to `Done` for a few batches."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.channel = channel
        self.indexer = indexer_service_pb2_grpc.IndexerServiceStub(channel)
        self.searcher = search_service_pb2_grpc.SearchServiceStub(channel)

    async def apply(
        self, *batches: Sequence[fact_pb2.FactIntent], return_vectors: bool = False
    ) -> list[fact_pb2.IntentAck]:
        """All acknowledgements, in the order in which they came. Asserts the frames of the contract."""

        async def requests() -> AsyncIterator[indexer_service_pb2.IndexFactsRequest]:
            yield open_frame(return_vectors=return_vectors)
            for batch in batches:
                yield batch_frame(batch)

        async with asyncio.timeout(30):
            frames = [frame async for frame in self.indexer.IndexFacts(requests())]
        assert frames[0].WhichOneof("frame") == "opened"
        assert frames[-1].WhichOneof("frame") == "done"
        acks = [ack for frame in frames if frame.WhichOneof("frame") == "acks" for ack in frame.acks.acks]
        assert frames[-1].done.acknowledged_count == len(acks)
        return acks

    async def apply_one(self, intent: fact_pb2.FactIntent) -> fact_pb2.IntentAck:
        (ack,) = await self.apply([intent])
        return ack

    async def stats(self, project_id: str = "") -> indexer_service_pb2.GetIndexStatsResponse:
        request = indexer_service_pb2.GetIndexStatsRequest(project_id=project_id)
        return await self.indexer.GetIndexStats(request, timeout=10)

    async def collection(self, epoch: int = 0) -> str:
        """In which Qdrant holds an epoch; 0 is the one that is searched."""
        return next(
            each.collection
            for each in (await self.stats()).epochs
            if each.epoch == epoch or (not epoch and each.state == fact_pb2.EPOCH_STATE_SERVING)
        )

    async def points(self, *, epoch: int = 0, buckets: Iterable[int] = range(4096)) -> list[fact_pb2.IndexedPoint]:
        request = indexer_service_pb2.ListPointsRequest(epoch=epoch, buckets=buckets)
        frames = [frame async for frame in self.indexer.ListPoints(request, timeout=30)]
        assert frames[-1].WhichOneof("frame") == "done"
        points = [point for frame in frames for point in frame.points.points]
        assert frames[-1].done.point_count == len(points)
        return points


@asynccontextmanager
async def connected(port: int) -> AsyncIterator[IndexerClient]:
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield IndexerClient(channel)


def new_id() -> str:
    return str(uuid4())
