"""The contract holds for any Qdrant at `QDRANT_URL` (gRPC) and for the local stand-in, which is taken without it."""

import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from urllib.parse import urlsplit

import pytest
from qdrant_client import AsyncQdrantClient, models

DIMENSION = 4


def connect(url: str) -> AsyncQdrantClient:
    address = urlsplit(url)
    return AsyncQdrantClient(
        host=address.hostname, grpc_port=address.port, prefer_grpc=True, check_compatibility=False, timeout=30
    )


@pytest.fixture(scope="session")
async def client(qdrant_url: str) -> AsyncIterator[AsyncQdrantClient]:
    connected = connect(qdrant_url)
    yield connected
    await connected.close()


CreateCollection = Callable[[], Awaitable[str]]


@pytest.fixture
async def create_collection(client: AsyncQdrantClient) -> AsyncIterator[CreateCollection]:
    """Makes collections shaped like the indexer's: named dense and sparse vectors, and payload indexes."""
    names: list[str] = []

    async def create() -> str:
        name = f"contract-{uuid.uuid4()}"
        names.append(name)
        await create_fact_collection(client, name)
        return name

    yield create
    for name in names:
        await client.delete_collection(name)


@pytest.fixture
async def collection(create_collection: CreateCollection) -> str:
    return await create_collection()


async def create_fact_collection(client: AsyncQdrantClient, name: str) -> None:
    await client.create_collection(
        name,
        vectors_config={"dense": models.VectorParams(size=DIMENSION, distance=models.Distance.COSINE)},
        sparse_vectors_config={"bm25": models.SparseVectorParams(modifier=models.Modifier.IDF)},
        hnsw_config=models.HnswConfigDiff(m=8),
        optimizers_config=models.OptimizersConfigDiff(indexing_threshold=20_000),
    )
    for field, schema in (
        ("project", models.PayloadSchemaType.KEYWORD),
        ("version", models.PayloadSchemaType.INTEGER),
        ("score", models.PayloadSchemaType.FLOAT),
        ("deleted", models.PayloadSchemaType.BOOL),
        ("at", models.PayloadSchemaType.DATETIME),
        ("ref", models.PayloadSchemaType.UUID),
        ("text", models.TextIndexParams(type=models.TextIndexType.TEXT, lowercase=True)),
    ):
        await client.create_payload_index(name, field, schema, wait=True)
