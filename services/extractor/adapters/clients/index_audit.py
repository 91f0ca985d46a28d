"""What the index holds, read through the indexer: digests and points."""

from collections.abc import AsyncIterator, Sequence
from functools import lru_cache
from uuid import UUID

import grpc.aio
from scristill.indexer.v1 import fact_pb2
from scristill.indexer.v1 import indexer_service_pb2 as pb
from scristill.indexer.v1.indexer_service_pb2_grpc import IndexerServiceStub

from services.extractor.adapters.clients.indexer import PEER
from services.extractor.domain.reconciliation import EMPTY, Bucket, PointState
from services.shared.errors import Code, RemoteError
from services.shared.grpc.errors import remote_errors

_SCAN_SECONDS = 600.0


class IndexAuditClient:
    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._stub = IndexerServiceStub(channel)

    async def digests(self, *, epoch: int, first: int, last: int, pace: int) -> tuple[int, dict[int, Bucket]]:
        request = pb.ScanDigestsRequest(epoch=epoch, first_bucket=first, last_bucket=last, max_points_per_second=pace)
        buckets: dict[int, Bucket] = {}
        with remote_errors(PEER):
            async for frame in self._stub.ScanDigests(request, timeout=_SCAN_SECONDS):
                if frame.WhichOneof("frame") == "done":
                    return frame.done.epoch, buckets
                for row in frame.digests.digests:
                    bucket = Bucket(digest=int.from_bytes(row.digest), count=row.point_count)
                    if bucket != EMPTY:
                        buckets[row.bucket] = bucket
        raise _cut_short()

    async def points(self, *, epoch: int, buckets: Sequence[int]) -> AsyncIterator[Sequence[PointState]]:
        request = pb.ListPointsRequest(epoch=epoch, buckets=buckets)
        with remote_errors(PEER):
            async for frame in self._stub.ListPoints(request, timeout=_SCAN_SECONDS):
                if frame.WhichOneof("frame") == "done":
                    return
                yield [_point(point) for point in frame.points.points]
        raise _cut_short()


def _point(point: fact_pb2.IndexedPoint) -> PointState:
    return PointState(
        fact_id=UUID(point.fact_id),
        project_id=_uuid(point.project_id),
        source_id=_uuid(point.source_id),
        version=point.version,
        content_hash=point.content_hash,
        epoch=point.epoch,
        tombstone=point.tombstone,
    )


@lru_cache(maxsize=4096)
def _uuid(text: str) -> UUID:
    """Of a project or source, which many points share. One that was damaged may say anything; the zero id is no
    project's."""
    try:
        return UUID(text)
    except ValueError:
        return UUID(int=0)


def _cut_short() -> RemoteError:
    return RemoteError(peer=PEER, code=Code.UNAVAILABLE, message="the stream ended without its last frame")
