"""What tests may rely on when they ask for a store."""

import asyncpg
import redis.asyncio


async def test_each_test_gets_an_empty_database_of_a_role_without_privileges(postgres_url):
    connection = await asyncpg.connect(postgres_url)
    try:
        tables = await connection.fetchval(
            "SELECT count(*) FROM pg_tables WHERE schemaname NOT IN ('pg_catalog', 'information_schema')"
        )
        superuser = await connection.fetchval("SELECT rolsuper FROM pg_roles WHERE rolname = current_user")
        await connection.execute("CREATE SCHEMA scheduler")
    finally:
        await connection.close()

    assert tables == 0
    assert superuser is False


async def test_a_migrated_database_is_a_copy_that_is_made_once(migrated_database):
    migrations = 0

    async def migrate(url):
        nonlocal migrations
        migrations += 1
        connection = await asyncpg.connect(url)
        await connection.execute("CREATE TABLE example (id int)")
        await connection.close()

    first = await migrated_database("example", migrate)
    second = await migrated_database("example", migrate)

    assert first != second
    assert migrations == 1
    connection = await asyncpg.connect(second)
    assert await connection.fetchval("SELECT count(*) FROM example") == 0
    await connection.close()


async def test_a_database_can_be_dropped_while_a_client_is_connected(databases):
    async with databases.fresh() as url:
        connection = await asyncpg.connect(url)

    assert await _is_cut(connection)


async def _is_cut(connection):
    try:
        await connection.fetchval("SELECT 1")
    except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError):
        return True
    return False


async def test_valkey_is_empty(valkey_url):
    async with redis.asyncio.from_url(valkey_url) as client:
        assert await client.dbsize() == 0
        await client.set("left", "behind")


async def test_valkey_is_empty_again(valkey_url):
    async with redis.asyncio.from_url(valkey_url) as client:
        assert await client.dbsize() == 0
