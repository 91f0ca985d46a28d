"""`IndexerService` on the wire."""

from collections.abc import AsyncIterator, Sequence
from itertools import islice

from scristill.indexer.v1 import indexer_service_pb2 as pb
from scristill.indexer.v1 import indexer_service_pb2_grpc as pb_grpc

from services.indexer.application.epochs import Epochs
from services.indexer.application.inspect_index import InspectIndex
from services.indexer.application.intake import Intake
from services.indexer.application.switch_epochs import SwitchEpochs
from services.indexer.domain.digest import BucketDigest
from services.indexer.domain.identity import BUCKET_COUNT
from services.indexer.entrypoints import mapping
from services.indexer.entrypoints.credit import Credit
from services.indexer.entrypoints.index_stream import IndexStream
from services.shared.grpc.interceptors.base import Context
from services.shared.lifecycle import Drain

_DIGESTS_PER_FRAME = 512


class IndexerServicer(pb_grpc.IndexerServiceServicer):
    """`credit` counts the intents of all streams."""

    def __init__(
        self,
        *,
        intake: Intake,
        epochs: Epochs,
        inspect: InspectIndex,
        switch: SwitchEpochs,
        reader: mapping.IntentReader,
        credit: Credit,
        max_in_flight: int,
        drain: Drain,
    ) -> None:
        self._intake = intake
        self._epochs = epochs
        self._inspect = inspect
        self._switch = switch
        self._reader = reader
        self._credit = credit
        self._max_in_flight = max_in_flight
        self._drain = drain

    async def IndexFacts(
        self, request_iterator: AsyncIterator[pb.IndexFactsRequest], context: Context
    ) -> AsyncIterator[pb.IndexFactsResponse]:
        stream = IndexStream(
            intake=self._intake,
            epochs=self._epochs,
            reader=self._reader,
            credit=Credit(self._max_in_flight, parent=self._credit),
            drain=self._drain,
        )
        async for frame in stream.frames(request_iterator, max_in_flight=self._max_in_flight):
            yield frame

    async def ScanDigests(
        self, request: pb.ScanDigestsRequest, context: Context
    ) -> AsyncIterator[pb.ScanDigestsResponse]:
        first, last = request.first_bucket, request.last_bucket or BUCKET_COUNT - 1
        digests = await self._inspect.digests(
            epoch=request.epoch, first=first, last=last, max_points_per_second=request.max_points_per_second
        )
        rows = digests.table.rows(first, last)
        while frame := list(islice(rows, _DIGESTS_PER_FRAME)):
            yield _digest_frame(frame)
        yield pb.ScanDigestsResponse(done=mapping.scan_done_to(digests))

    async def ListPoints(self, request: pb.ListPointsRequest, context: Context) -> AsyncIterator[pb.ListPointsResponse]:
        count = 0
        async for points in self._inspect.points(epoch=request.epoch, buckets=request.buckets):
            count += len(points)
            yield pb.ListPointsResponse(points=pb.IndexedPoints(points=[mapping.point_to(each) for each in points]))
        yield pb.ListPointsResponse(done=pb.PointListDone(point_count=count))

    async def CreateEpoch(self, request: pb.CreateEpochRequest, context: Context) -> pb.CreateEpochResponse:
        epoch = await self._switch.create(model=request.embedding_model, request_id=request.request_id)
        return pb.CreateEpochResponse(epoch=mapping.epoch_to(epoch))

    async def PromoteEpoch(self, request: pb.PromoteEpochRequest, context: Context) -> pb.PromoteEpochResponse:
        return pb.PromoteEpochResponse(epoch=mapping.epoch_to(await self._switch.promote(request.epoch)))

    async def DropEpoch(self, request: pb.DropEpochRequest, context: Context) -> pb.DropEpochResponse:
        await self._switch.drop(request.epoch)
        return pb.DropEpochResponse()

    async def GetIndexStats(self, request: pb.GetIndexStatsRequest, context: Context) -> pb.GetIndexStatsResponse:
        stats = await self._inspect.stats(project_id=request.project_id)
        return mapping.stats_to(stats, in_flight=self._credit.held)


def _digest_frame(rows: Sequence[BucketDigest]) -> pb.ScanDigestsResponse:
    return pb.ScanDigestsResponse(digests=pb.BucketDigests(digests=[mapping.digest_to(row) for row in rows]))
