# The stubs of qdrant_client import each other as top-level modules, so half of their message types are unknown.
# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false, reportUnknownVariableType=false
# pyright: reportUnknownParameterType=false
"""Reads, from Qdrant's messages to the engine's requests. Defaults are those of Qdrant's gRPC interface."""

# The stubs of qdrant_edge declare types that the module does not have.
from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import qdrant_edge as edge
from google.protobuf.message import Message
from qdrant_client import grpc as qdrant

from deploy.local.qdrant import translate_filter
from deploy.local.qdrant.errors import InvalidArgumentError, UnimplementedError
from deploy.local.qdrant.translate_filter import point_id
from deploy.local.qdrant.translate_schema import refuse

_DEFAULT_LIMIT = 10
_DEFAULT_RRF_K = 2
_DIRECTIONS: Mapping[int, edge.Direction] = {
    qdrant.Direction.Asc: edge.Direction.Asc,
    qdrant.Direction.Desc: edge.Direction.Desc,
}


def query(request: qdrant.QueryPoints) -> edge.QueryRequest:
    refuse(request, "lookup_from", "shard_key_selector")
    return edge.QueryRequest(
        limit=limit(request),
        offset=request.offset,
        query=_scoring(request),
        prefetches=[_prefetch(stage) for stage in request.prefetch],
        with_vector=with_vectors(request),
        with_payload=with_payload(request, default=False),
        filter=translate_filter.optional(request),
        score_threshold=_score_threshold(request),
        params=_params(request),
    )


def scroll(request: qdrant.ScrollPoints) -> edge.ScrollRequest:
    refuse(request, "shard_key_selector")
    return edge.ScrollRequest(
        offset=point_id(request.offset) if request.HasField("offset") else None,
        limit=limit(request),
        filter=translate_filter.optional(request),
        with_payload=with_payload(request, default=True),
        with_vector=with_vectors(request),
        order_by=_order_by(request.order_by) if request.HasField("order_by") else None,
    )


def count(request: qdrant.CountPoints) -> edge.CountRequest:
    refuse(request, "shard_key_selector")
    exact = request.exact if request.HasField("exact") else True
    return edge.CountRequest(exact, translate_filter.optional(request))


def facet(request: qdrant.FacetCounts) -> edge.FacetRequest:
    refuse(request, "shard_key_selector")
    return edge.FacetRequest(
        request.key, limit=limit(request), exact=request.exact, filter=translate_filter.optional(request)
    )


def limit(request: Message) -> int:
    if not request.HasField("limit"):
        return _DEFAULT_LIMIT
    value: int = getattr(request, "limit")  # noqa: B009
    if value == 0:
        raise InvalidArgumentError("limit: value 0 invalid, must be 1 or larger")
    return value


def with_payload(request: Any, *, default: bool) -> edge.WithPayloadType:
    selector = request.with_payload
    match selector.WhichOneof("selector_options"):
        case "enable":
            return selector.enable
        case "include":
            return edge.PayloadSelector.Include(list(selector.include.fields))
        case "exclude":
            return edge.PayloadSelector.Exclude(list(selector.exclude.fields))
        case _:
            return default


def with_vectors(request: Any) -> edge.WithVectorType:
    selector = request.with_vectors
    match selector.WhichOneof("selector_options"):
        case "enable":
            return selector.enable
        case "include":
            return list(selector.include.names)
        case _:
            return False


def _prefetch(stage: qdrant.PrefetchQuery) -> edge.Prefetch:
    refuse(stage, "lookup_from")
    return edge.Prefetch(
        limit=limit(stage),
        query=_scoring(stage),
        prefetches=[_prefetch(inner) for inner in stage.prefetch],
        params=_params(stage),
        filter=translate_filter.optional(stage),
        score_threshold=_score_threshold(stage),
    )


def _scoring(request: qdrant.QueryPoints | qdrant.PrefetchQuery) -> edge.ScoringQueryType | None:
    if not request.HasField("query"):
        return None
    query = request.query
    match query.WhichOneof("variant"):
        case "nearest":
            return edge.Query.Nearest(_vector(query.nearest), request.using or None)
        case "fusion":
            return _rrf(_DEFAULT_RRF_K) if query.fusion == qdrant.Fusion.RRF else _dbsf()
        case "rrf":
            return _rrf(query.rrf.k if query.rrf.HasField("k") else _DEFAULT_RRF_K, query.rrf.weights)
        case "order_by":
            return _order_by(query.order_by)
        case "sample":
            return edge.Sample.Random
        case None:
            raise InvalidArgumentError("Query variant is missing")
        case other:
            raise UnimplementedError(f"queries of kind {other}")


def _dbsf() -> edge.Fusion:
    return cast("edge.Fusion", edge.Fusion.Dbsf())


def _rrf(k: int, weights: Sequence[float] = ()) -> edge.Fusion:
    # In the binding the variants are subclasses, in its stubs they are not.
    return cast("edge.Fusion", edge.Fusion.Rrf(k, list(weights) or None))


def _vector(message: qdrant.VectorInput) -> edge.NamedVector:
    match message.WhichOneof("variant"):
        case "dense":
            return list(message.dense.data)
        case "sparse":
            return _sparse(list(message.sparse.indices), list(message.sparse.values))
        case None:
            raise InvalidArgumentError("VectorInput variant is missing")
        case other:
            raise UnimplementedError(f"query vectors of kind {other}")


def _sparse(indices: list[int], values: list[float]) -> edge.SparseVector:
    if len(indices) != len(values):
        raise InvalidArgumentError(f"sparse query: {len(indices)} indices for {len(values)} values")
    if len(set(indices)) != len(indices):
        raise InvalidArgumentError("sparse query: indices must be unique")
    return edge.SparseVector(indices, values)


def _order_by(message: qdrant.OrderBy) -> edge.OrderBy:
    return edge.OrderBy(message.key, _DIRECTIONS[message.direction], _start_from(message.start_from))


def _start_from(message: qdrant.StartFrom) -> edge.StartFromType | None:
    match message.WhichOneof("value"):
        case None:
            return None
        case "timestamp":
            return message.timestamp.ToJsonString()
        case kind:
            return getattr(message, kind)


def _score_threshold(request: qdrant.QueryPoints | qdrant.PrefetchQuery) -> float | None:
    return request.score_threshold if request.HasField("score_threshold") else None


def _params(request: qdrant.QueryPoints | qdrant.PrefetchQuery) -> edge.SearchParams | None:
    """Only what changes results: without graphs and quantization every search is exact, whatever the rest says."""
    if not request.params.HasField("idf"):
        return None
    idf = request.params.idf
    corpus = translate_filter.to_engine(idf.corpus) if idf.HasField("corpus") else None
    return edge.SearchParams(idf=edge.IdfParams(corpus))
