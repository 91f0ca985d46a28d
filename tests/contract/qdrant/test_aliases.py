import uuid

import grpc
import pytest
from qdrant_client import AsyncQdrantClient, models

from tests.contract.qdrant.conftest import CreateCollection
from tests.contract.qdrant.points import point


def create(alias: str, collection: str) -> models.CreateAliasOperation:
    return models.CreateAliasOperation(create_alias=models.CreateAlias(collection_name=collection, alias_name=alias))


def delete(alias: str) -> models.DeleteAliasOperation:
    return models.DeleteAliasOperation(delete_alias=models.DeleteAlias(alias_name=alias))


def rename(old: str, new: str) -> models.RenameAliasOperation:
    return models.RenameAliasOperation(rename_alias=models.RenameAlias(old_alias_name=old, new_alias_name=new))


@pytest.fixture
def alias() -> str:
    return f"alias-{uuid.uuid4()}"


async def aliases_of(client: AsyncQdrantClient, collection: str) -> list[str]:
    return [each.alias_name for each in (await client.get_collection_aliases(collection)).aliases]


async def test_alias_stands_for_its_collection(client: AsyncQdrantClient, collection: str, alias: str) -> None:
    await client.update_collection_aliases([create(alias, collection)])

    await client.upsert(alias, [point(1, project="a")], wait=True)

    assert (await client.count(collection)).count == 1
    assert (await client.retrieve(alias, [1]))[0].payload == {"project": "a"}
    assert await client.collection_exists(alias)
    assert await aliases_of(client, collection) == [alias]
    assert alias in [each.alias_name for each in (await client.get_aliases()).aliases]


async def test_alias_is_switched_in_one_request(
    client: AsyncQdrantClient, create_collection: CreateCollection, alias: str
) -> None:
    old, new = await create_collection(), await create_collection()
    await client.upsert(new, [point(1)], wait=True)
    await client.update_collection_aliases([create(alias, old)])

    await client.update_collection_aliases([delete(alias), create(alias, new)])

    assert (await client.count(alias)).count == 1
    assert await aliases_of(client, old) == []


async def test_alias_can_be_renamed(client: AsyncQdrantClient, collection: str, alias: str) -> None:
    await client.update_collection_aliases([create(alias, collection)])

    await client.update_collection_aliases([rename(alias, f"{alias}-new")])

    assert await aliases_of(client, collection) == [f"{alias}-new"]


async def test_deleting_a_collection_deletes_its_aliases(
    client: AsyncQdrantClient, collection: str, alias: str
) -> None:
    await client.update_collection_aliases([create(alias, collection)])

    await client.delete_collection(collection)

    assert not await client.collection_exists(alias)


async def test_alias_needs_an_existing_collection(client: AsyncQdrantClient, alias: str) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await client.update_collection_aliases([create(alias, "missing")])

    assert failure.value.code() == grpc.StatusCode.NOT_FOUND


async def test_renaming_a_missing_alias_is_not_found(client: AsyncQdrantClient, alias: str) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await client.update_collection_aliases([rename(alias, f"{alias}-new")])

    assert failure.value.code() == grpc.StatusCode.NOT_FOUND


async def test_collection_cannot_take_the_name_of_an_alias(
    client: AsyncQdrantClient, collection: str, alias: str
) -> None:
    await client.update_collection_aliases([create(alias, collection)])

    with pytest.raises(grpc.aio.AioRpcError):
        await client.create_collection(alias, vectors_config=models.VectorParams(size=4, distance="Dot"))

    assert (await client.get_collection(alias)).config.params.vectors["dense"].size == 4


async def test_alias_cannot_take_the_name_of_a_collection(
    client: AsyncQdrantClient, create_collection: CreateCollection
) -> None:
    first, second = await create_collection(), await create_collection()

    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await client.update_collection_aliases([create(first, second)])

    assert failure.value.code() == grpc.StatusCode.ALREADY_EXISTS
