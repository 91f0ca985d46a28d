# The stubs of qdrant_client import each other as top-level modules, so half of their message types are unknown.
# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false, reportUnknownVariableType=false
# pyright: reportUnknownLambdaType=false
"""Collection configuration and payload indexes, from Qdrant's messages to the engine's objects and back.

Settings that only tune a server (HNSW, optimizers, WAL, replication, memory placement) are kept and reported back;
settings that change what is stored or what a search means are honoured or refused.
"""

# The stubs of qdrant_edge declare types that the module does not have.
from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import qdrant_edge as edge
from google.protobuf.message import Message
from qdrant_client import grpc as qdrant

from deploy.local.qdrant.errors import InvalidArgumentError, UnimplementedError

_NAME = re.compile(r'[^<>:"/\\|?*\x00-\x1f]{1,255}')
_MAX_DIMENSION = 65_536
_NEVER = 1_000_000_000
"""Kilobytes: above any segment of a local collection, so that the optimizer reclaims space and builds no graph."""

_DISTANCES: Mapping[int, edge.Distance] = {
    qdrant.Distance.Cosine: edge.Distance.Cosine,
    qdrant.Distance.Euclid: edge.Distance.Euclid,
    qdrant.Distance.Dot: edge.Distance.Dot,
    qdrant.Distance.Manhattan: edge.Distance.Manhattan,
}
_DATATYPES: Mapping[int, edge.VectorStorageDatatype | None] = {
    qdrant.Datatype.Default: None,
    qdrant.Datatype.Float32: edge.VectorStorageDatatype.Float32,
    qdrant.Datatype.Float16: edge.VectorStorageDatatype.Float16,
    qdrant.Datatype.Uint8: edge.VectorStorageDatatype.Uint8,
}
_FIELD_TYPES: Mapping[int, edge.PayloadSchemaType] = {
    qdrant.FieldType.FieldTypeKeyword: edge.PayloadSchemaType.Keyword,
    qdrant.FieldType.FieldTypeInteger: edge.PayloadSchemaType.Integer,
    qdrant.FieldType.FieldTypeFloat: edge.PayloadSchemaType.Float,
    qdrant.FieldType.FieldTypeText: edge.PayloadSchemaType.Text,
    qdrant.FieldType.FieldTypeBool: edge.PayloadSchemaType.Bool,
    qdrant.FieldType.FieldTypeDatetime: edge.PayloadSchemaType.Datetime,
    qdrant.FieldType.FieldTypeUuid: edge.PayloadSchemaType.Uuid,
}
_TOKENIZERS: Mapping[int, edge.TokenizerType | None] = {
    qdrant.TokenizerType.Unknown: None,
    qdrant.TokenizerType.Prefix: edge.TokenizerType.Prefix,
    qdrant.TokenizerType.Whitespace: edge.TokenizerType.Whitespace,
    qdrant.TokenizerType.Word: edge.TokenizerType.Word,
    qdrant.TokenizerType.Multilingual: edge.TokenizerType.Multilingual,
}
_SCHEMA_TYPES: Mapping[edge.PayloadSchemaType, qdrant.PayloadSchemaType.ValueType] = {
    edge.PayloadSchemaType.Keyword: qdrant.PayloadSchemaType.Keyword,
    edge.PayloadSchemaType.Integer: qdrant.PayloadSchemaType.Integer,
    edge.PayloadSchemaType.Float: qdrant.PayloadSchemaType.Float,
    edge.PayloadSchemaType.Text: qdrant.PayloadSchemaType.Text,
    edge.PayloadSchemaType.Bool: qdrant.PayloadSchemaType.Bool,
    edge.PayloadSchemaType.Datetime: qdrant.PayloadSchemaType.Datetime,
    edge.PayloadSchemaType.Uuid: qdrant.PayloadSchemaType.Uuid,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class VectorSchema:
    """The vectors that points of a collection may have; the default vector is called ""."""

    dimensions: Mapping[str, int]
    sparse: frozenset[str]


def vector_schema(config: qdrant.CreateCollection) -> VectorSchema:
    return VectorSchema(
        dimensions={name: params.size for name, params in _dense_params(config).items()},
        sparse=frozenset(config.sparse_vectors_config.map),
    )


def engine_config(config: qdrant.CreateCollection) -> edge.EdgeConfig:
    """Raises InvalidArgumentError or UnimplementedError on what a collection cannot be."""
    if not _NAME.fullmatch(config.collection_name):
        raise InvalidArgumentError(f"bad collection name `{config.collection_name}`")
    refuse(config, "quantization_config", "strict_mode_config")
    if config.sharding_method == qdrant.ShardingMethod.Custom:
        raise UnimplementedError("custom sharding")
    return edge.EdgeConfig(
        vectors={name: _dense(name, params) for name, params in _dense_params(config).items()},
        sparse_vectors={name: _sparse(params) for name, params in config.sparse_vectors_config.map.items()},
        optimizers=edge.EdgeOptimizersConfig(
            default_segment_number=1, max_segment_size=_NEVER, indexing_threshold=_NEVER
        ),
    )


def refuse(message: Message, *fields: str) -> None:
    for field in fields:
        if message.HasField(field):
            raise UnimplementedError(field)


def collection_info(config: qdrant.CreateCollection, info: edge.ShardInfo) -> qdrant.CollectionInfo:
    answer = qdrant.CollectionInfo(
        status=qdrant.CollectionStatus.Green,
        optimizer_status=qdrant.OptimizerStatus(ok=True),
        segments_count=info.segments_count,
        points_count=info.points_count,
        indexed_vectors_count=info.indexed_vectors_count,
        config=qdrant.CollectionConfig(
            params=qdrant.CollectionParams(shard_number=1, on_disk_payload=True, replication_factor=1),
            metadata=config.metadata,
            # What the request left out is reported as Qdrant's defaults, which clients require to be there.
            hnsw_config=qdrant.HnswConfigDiff(m=16, ef_construct=100, full_scan_threshold=10_000),
            optimizer_config=qdrant.OptimizersConfigDiff(
                deleted_threshold=0.2, vacuum_min_vector_number=1_000, default_segment_number=1, flush_interval_sec=5
            ),
            wal_config=qdrant.WalConfigDiff(wal_capacity_mb=32, wal_segments_ahead=0),
        ),
    )
    answer.config.hnsw_config.MergeFrom(config.hnsw_config)
    answer.config.optimizer_config.MergeFrom(config.optimizers_config)
    answer.config.wal_config.MergeFrom(config.wal_config)
    answer.config.params.vectors_config.CopyFrom(config.vectors_config)
    if config.HasField("sparse_vectors_config"):
        answer.config.params.sparse_vectors_config.CopyFrom(config.sparse_vectors_config)
    for field, index in info.payload_schema.items():
        answer.payload_schema[field].data_type = _SCHEMA_TYPES[index.data_type]
        answer.payload_schema[field].points = index.points
    return answer


def field_index(request: qdrant.CreateFieldIndexCollection) -> edge.UpdateOperation:
    if kind := request.field_index_params.WhichOneof("index_params"):
        if kind not in _INDEX_PARAMS:
            raise UnimplementedError(kind)
        params = getattr(request.field_index_params, kind)
        refuse(params, "nested")
        return edge.UpdateOperation.create_field_index(request.field_name, _INDEX_PARAMS[kind](params))
    if not request.HasField("field_type"):
        raise InvalidArgumentError("field_type or field_index_params is required")
    if request.field_type not in _FIELD_TYPES:
        raise UnimplementedError("geo indexes")
    return edge.UpdateOperation.create_field_index(request.field_name, _FIELD_TYPES[request.field_type])


def _dense_params(config: qdrant.CreateCollection) -> Mapping[str, qdrant.VectorParams]:
    match config.vectors_config.WhichOneof("config"):
        case "params":
            return {"": config.vectors_config.params}
        case "params_map":
            return config.vectors_config.params_map.map
        case _:
            return {}


def _dense(name: str, params: qdrant.VectorParams) -> edge.EdgeVectorParams:
    refuse(params, "quantization_config", "multivector_config")
    if not 1 <= params.size <= _MAX_DIMENSION:
        raise InvalidArgumentError(f"size of vector `{name}`: {params.size}, must be from 1 to {_MAX_DIMENSION}")
    if params.distance not in _DISTANCES:
        raise InvalidArgumentError(f"unknown distance of vector `{name}`")
    return edge.EdgeVectorParams(
        size=params.size, distance=_DISTANCES[params.distance], datatype=_datatype(params.datatype)
    )


def _sparse(params: qdrant.SparseVectorParams) -> edge.EdgeSparseVectorParams:
    return edge.EdgeSparseVectorParams(
        # Reading candidates' vectors one by one is slower than a filtered walk of the postings from the first point on.
        full_scan_threshold=1,
        modifier=edge.Modifier.Idf if params.modifier == qdrant.Modifier.Idf else None,
        datatype=_datatype(params.index.datatype),
    )


def _datatype(value: int) -> edge.VectorStorageDatatype | None:
    if value not in _DATATYPES:
        raise UnimplementedError(f"datatype {value}")
    return _DATATYPES[value]


def _set(message: Message, field: str) -> bool | None:
    return getattr(message, field) if message.HasField(field) else None


def _keyword(params: qdrant.KeywordIndexParams) -> edge.KeywordIndexParams:
    return edge.KeywordIndexParams(is_tenant=_set(params, "is_tenant"), prefix=params.HasField("prefix") or None)


def _integer(params: qdrant.IntegerIndexParams) -> edge.IntegerIndexParams:
    return edge.IntegerIndexParams(
        lookup=_set(params, "lookup"), range=_set(params, "range"), is_principal=_set(params, "is_principal")
    )


def _text(params: qdrant.TextIndexParams) -> edge.TextIndexParams:
    refuse(params, "stopwords", "stemmer", "scoring")
    return edge.TextIndexParams(
        tokenizer=_TOKENIZERS[params.tokenizer],
        lowercase=_set(params, "lowercase"),
        ascii_folding=_set(params, "ascii_folding"),
        phrase_matching=_set(params, "phrase_matching"),
        min_token_len=_set(params, "min_token_len"),
        max_token_len=_set(params, "max_token_len"),
    )


_INDEX_PARAMS: Mapping[str, Callable[..., edge.PayloadSchemaParams]] = {
    "keyword_index_params": _keyword,
    "integer_index_params": _integer,
    "float_index_params": lambda params: edge.FloatIndexParams(is_principal=_set(params, "is_principal")),
    "text_index_params": _text,
    "bool_index_params": lambda _: edge.BoolIndexParams(),
    "datetime_index_params": lambda params: edge.DatetimeIndexParams(is_principal=_set(params, "is_principal")),
    "uuid_index_params": lambda params: edge.UuidIndexParams(is_tenant=_set(params, "is_tenant")),
}
