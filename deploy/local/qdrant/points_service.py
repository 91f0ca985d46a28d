# The stubs of qdrant_client import each other as top-level modules, so half of their message types are unknown.
# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false, reportUnknownVariableType=false
# pyright: reportUnknownParameterType=false, reportIncompatibleMethodOverride=false
"""`qdrant.Points`: writes, reads and searches. RPCs that are not here answer UNIMPLEMENTED."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import qdrant_edge as edge
from qdrant_client import grpc as qdrant

from deploy.local.qdrant import translate_points, translate_query, translate_results, translate_schema
from deploy.local.qdrant.registry import OpenCollection, Registry
from deploy.local.qdrant.translate_filter import point_id

Response = TypeVar("Response")

# ruff: noqa: N802  (the names are the protocol's)


class PointsService(qdrant.PointsServicer):
    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    async def Upsert(self, request: qdrant.UpsertPoints, _context: Any) -> qdrant.PointsOperationResponse:
        return await self._write(request, lambda collection: translate_points.upsert(request, collection.schema))

    async def UpdateVectors(self, request: qdrant.UpdatePointVectors, _context: Any) -> qdrant.PointsOperationResponse:
        return await self._write(
            request, lambda collection: translate_points.update_vectors(request, collection.schema)
        )

    async def DeleteVectors(self, request: qdrant.DeletePointVectors, _context: Any) -> qdrant.PointsOperationResponse:
        return await self._write(
            request, lambda collection: translate_points.delete_vectors(request, collection.schema)
        )

    async def Delete(self, request: qdrant.DeletePoints, _context: Any) -> qdrant.PointsOperationResponse:
        return await self._write(request, lambda _: translate_points.delete(request))

    async def SetPayload(self, request: qdrant.SetPayloadPoints, _context: Any) -> qdrant.PointsOperationResponse:
        return await self._write(request, lambda _: translate_points.set_payload(request))

    async def OverwritePayload(self, request: qdrant.SetPayloadPoints, _context: Any) -> qdrant.PointsOperationResponse:
        return await self._write(request, lambda _: translate_points.overwrite_payload(request))

    async def DeletePayload(self, request: qdrant.DeletePayloadPoints, _context: Any) -> qdrant.PointsOperationResponse:
        return await self._write(request, lambda _: translate_points.delete_payload(request))

    async def ClearPayload(self, request: qdrant.ClearPayloadPoints, _context: Any) -> qdrant.PointsOperationResponse:
        return await self._write(request, lambda _: translate_points.clear_payload(request))

    async def CreateFieldIndex(
        self, request: qdrant.CreateFieldIndexCollection, _context: Any
    ) -> qdrant.PointsOperationResponse:
        return await self._write(request, lambda _: translate_schema.field_index(request))

    async def DeleteFieldIndex(
        self, request: qdrant.DeleteFieldIndexCollection, _context: Any
    ) -> qdrant.PointsOperationResponse:
        return await self._write(request, lambda _: edge.UpdateOperation.delete_field_index(request.field_name))

    async def UpdateBatch(self, request: qdrant.UpdateBatchPoints, _context: Any) -> qdrant.UpdateBatchResponse:
        collection = self._registry.opened(request.collection_name)
        status = await self._commit(
            request, collection, lambda: translate_points.batch(request.operations, collection.schema)
        )
        return qdrant.UpdateBatchResponse(result=[qdrant.UpdateResult(status=status) for _ in request.operations])

    async def Get(self, request: qdrant.GetPoints, _context: Any) -> qdrant.GetResponse:
        translate_schema.refuse(request, "shard_key_selector")

        def answer(engine: edge.EdgeShard) -> qdrant.GetResponse:
            response = qdrant.GetResponse()
            records = engine.retrieve(
                [point_id(each) for each in request.ids],
                translate_query.with_payload(request, default=True),
                translate_query.with_vectors(request),
            )
            translate_results.fill_records(response.result, records)
            return response

        return await self._read(request, answer)

    async def Scroll(self, request: qdrant.ScrollPoints, _context: Any) -> qdrant.ScrollResponse:
        def answer(engine: edge.EdgeShard) -> qdrant.ScrollResponse:
            response = qdrant.ScrollResponse()
            records, next_offset = engine.scroll(translate_query.scroll(request))
            translate_results.fill_records(response.result, records)
            if next_offset is not None:
                translate_results.fill_id(response.next_page_offset, next_offset)
            return response

        return await self._registry.opened(request.collection_name).shard.scan(answer)

    async def Count(self, request: qdrant.CountPoints, _context: Any) -> qdrant.CountResponse:
        def answer(engine: edge.EdgeShard) -> qdrant.CountResponse:
            return qdrant.CountResponse(result=qdrant.CountResult(count=engine.count(translate_query.count(request))))

        return await self._read(request, answer)

    async def Query(self, request: qdrant.QueryPoints, _context: Any) -> qdrant.QueryResponse:
        def answer(engine: edge.EdgeShard) -> qdrant.QueryResponse:
            response = qdrant.QueryResponse()
            translate_results.fill_scored(response.result, engine.query(translate_query.query(request)))
            return response

        return await self._read(request, answer)

    async def QueryBatch(self, request: qdrant.QueryBatchPoints, _context: Any) -> qdrant.QueryBatchResponse:
        def answer(engine: edge.EdgeShard) -> qdrant.QueryBatchResponse:
            response = qdrant.QueryBatchResponse()
            batch = edge.QueryBatchRequest([translate_query.query(query) for query in request.query_points])
            for points in engine.query_batch(batch):
                translate_results.fill_scored(response.result.add().result, points)
            return response

        return await self._read(request, answer)

    async def Facet(self, request: qdrant.FacetCounts, _context: Any) -> qdrant.FacetResponse:
        def answer(engine: edge.EdgeShard) -> qdrant.FacetResponse:
            response = qdrant.FacetResponse()
            translate_results.fill_facet(response, engine.facet(translate_query.facet(request)))
            return response

        return await self._read(request, answer)

    async def _read(self, request: Any, answer: Callable[[edge.EdgeShard], Response]) -> Response:
        return await self._registry.opened(request.collection_name).shard.read(answer)

    async def _write(
        self, request: Any, translate: Callable[[OpenCollection], edge.UpdateOperation]
    ) -> qdrant.PointsOperationResponse:
        collection = self._registry.opened(request.collection_name)
        status = await self._commit(request, collection, lambda: [translate(collection)])
        return qdrant.PointsOperationResponse(result=qdrant.UpdateResult(status=status))

    async def _commit(
        self, request: Any, collection: OpenCollection, translate: Callable[[], Sequence[edge.UpdateOperation]]
    ) -> qdrant.UpdateStatus.ValueType:
        """Completed means applied and on disk. Acknowledged promises less than was done; WaitTimeout nothing."""
        try:
            async with asyncio.timeout(request.timeout or None):
                await collection.shard.write(translate)
        except TimeoutError:
            return qdrant.UpdateStatus.WaitTimeout
        return qdrant.UpdateStatus.Completed if request.wait else qdrant.UpdateStatus.Acknowledged
