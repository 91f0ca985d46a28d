# The stubs of qdrant_client import each other as top-level modules, so half of their message types are unknown.
# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false, reportUnknownVariableType=false
# pyright: reportUnknownParameterType=false, reportIncompatibleMethodOverride=false
"""`qdrant.Collections` and `qdrant.Qdrant`. RPCs that are not here answer UNIMPLEMENTED."""

import importlib.metadata
from typing import Any

from qdrant_client import grpc as qdrant

from deploy.local.qdrant import translate_schema
from deploy.local.qdrant.errors import NotFoundError
from deploy.local.qdrant.registry import Registry

# ruff: noqa: N802  (the names are the protocol's)


class CollectionsService(qdrant.CollectionsServicer):
    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    async def Create(self, request: qdrant.CreateCollection, _context: Any) -> qdrant.CollectionOperationResponse:
        await self._registry.create(request)
        return qdrant.CollectionOperationResponse(result=True)

    async def Get(self, request: qdrant.GetCollectionInfoRequest, _context: Any) -> qdrant.GetCollectionInfoResponse:
        config = self._registry.config(request.collection_name)
        info = await self._registry.opened(request.collection_name).shard.read(lambda engine: engine.info())
        return qdrant.GetCollectionInfoResponse(result=translate_schema.collection_info(config, info))

    async def List(self, _request: qdrant.ListCollectionsRequest, _context: Any) -> qdrant.ListCollectionsResponse:
        names = sorted(self._registry.catalog.collections)
        return qdrant.ListCollectionsResponse(collections=[qdrant.CollectionDescription(name=name) for name in names])

    async def CollectionExists(
        self, request: qdrant.CollectionExistsRequest, _context: Any
    ) -> qdrant.CollectionExistsResponse:
        try:
            self._registry.catalog.resolve(request.collection_name)
        except NotFoundError:
            exists = False
        else:
            exists = True
        return qdrant.CollectionExistsResponse(result=qdrant.CollectionExists(exists=exists))

    async def Update(self, request: qdrant.UpdateCollection, _context: Any) -> qdrant.CollectionOperationResponse:
        translate_schema.refuse(request, "vectors_config", "quantization_config", "strict_mode_config")
        translate_schema.refuse(request, "sparse_vectors_config")
        settings = qdrant.CreateCollection(
            hnsw_config=request.hnsw_config, optimizers_config=request.optimizers_config, metadata=request.metadata
        )
        await self._registry.reconfigure(request.collection_name, settings)
        return qdrant.CollectionOperationResponse(result=True)

    async def Delete(self, request: qdrant.DeleteCollection, _context: Any) -> qdrant.CollectionOperationResponse:
        return qdrant.CollectionOperationResponse(result=await self._registry.delete(request.collection_name))

    async def UpdateAliases(self, request: qdrant.ChangeAliases, _context: Any) -> qdrant.CollectionOperationResponse:
        await self._registry.change_aliases(list(request.actions))
        return qdrant.CollectionOperationResponse(result=True)

    async def ListAliases(self, _request: qdrant.ListAliasesRequest, _context: Any) -> qdrant.ListAliasesResponse:
        return self._aliases(set(self._registry.catalog.collections))

    async def ListCollectionAliases(
        self, request: qdrant.ListCollectionAliasesRequest, _context: Any
    ) -> qdrant.ListAliasesResponse:
        return self._aliases({self._registry.catalog.resolve(request.collection_name)})

    def _aliases(self, targets: set[str]) -> qdrant.ListAliasesResponse:
        return qdrant.ListAliasesResponse(
            aliases=[
                qdrant.AliasDescription(alias_name=alias, collection_name=target)
                for alias, target in sorted(self._registry.catalog.aliases.items())
                if target in targets
            ]
        )


class QdrantService(qdrant.QdrantServicer):
    async def HealthCheck(self, _request: qdrant.HealthCheckRequest, _context: Any) -> qdrant.HealthCheckReply:
        protocol = importlib.metadata.version("qdrant-client")
        engine = importlib.metadata.version("qdrant-edge-py")
        return qdrant.HealthCheckReply(title="qdrant - local stand-in", version=f"{protocol}-edge.{engine}")
