"""The faults that tests of other parts rely on."""

import asyncio
from contextlib import asynccontextmanager

import pytest

from tests.support.tcp_proxy import TcpProxy
from tests.support.waiting import eventually


@asynccontextmanager
async def echo_behind_proxy():
    async def echo(reader, writer):
        try:
            while data := await reader.read(1000):
                writer.write(data)
                await writer.drain()
        except ConnectionError:
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()
    async with server, TcpProxy(host, port) as proxy:
        yield proxy


@asynccontextmanager
async def connected(proxy):
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
    try:
        yield reader, writer
    finally:
        writer.transport.abort()


async def ask(connection, text):
    reader, writer = connection
    writer.write(text)
    return await reader.readexactly(len(text))


async def test_it_forwards_in_both_directions():
    async with echo_behind_proxy() as proxy, connected(proxy) as connection:
        assert await ask(connection, b"hello") == b"hello"


async def test_the_end_of_one_direction_is_forwarded():
    async with echo_behind_proxy() as proxy, connected(proxy) as (reader, writer):
        writer.write(b"last words")
        writer.write_eof()

        assert await reader.read() == b"last words"
        await eventually(lambda: proxy.open_connections == 0)


async def test_cut_resets_what_is_open_and_what_comes_until_resumed():
    async with echo_behind_proxy() as proxy:
        async with connected(proxy) as connection:
            await ask(connection, b"works")
            proxy.cut()
            with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
                await ask(connection, b"cut")
        async with connected(proxy) as connection:
            with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
                await ask(connection, b"still cut")
        proxy.resume()
        async with connected(proxy) as connection:
            assert await ask(connection, b"works") == b"works"


async def test_a_stalled_connection_stays_open_and_delivers_after_the_stall():
    async with echo_behind_proxy() as proxy, connected(proxy) as connection:
        await ask(connection, b"works")
        proxy.stall()
        answer = asyncio.create_task(ask(connection, b"late"))

        done, _ = await asyncio.wait({answer}, timeout=0.1)
        assert not done
        proxy.resume()
        assert await answer == b"late"


async def test_mute_lets_questions_pass_and_loses_their_answers_with_the_connection():
    heard = asyncio.Queue[bytes]()

    async def answer(reader, writer):
        heard.put_nowait(await reader.readexactly(5))
        writer.write(b"done")

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server, TcpProxy(*server.sockets[0].getsockname()) as proxy, connected(proxy) as (reader, writer):
        proxy.mute()
        writer.write(b"write")

        assert await heard.get() == b"write"
        proxy.reset_connections()
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            await reader.readexactly(1)


async def test_reset_connections_spares_the_next_one():
    async with echo_behind_proxy() as proxy:
        async with connected(proxy) as connection:
            await ask(connection, b"works")
            proxy.reset_connections()
            with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
                await ask(connection, b"reset")
        async with connected(proxy) as connection:
            assert await ask(connection, b"works") == b"works"


async def test_delay_holds_each_piece_back():
    async with echo_behind_proxy() as proxy, connected(proxy) as connection:
        proxy.delay(0.05)
        began = asyncio.get_running_loop().time()
        await ask(connection, b"slow")

        assert asyncio.get_running_loop().time() - began >= 0.1


async def test_an_unreachable_upstream_ends_the_connection():
    async with echo_behind_proxy() as reachable:
        dead_port = reachable.port
    async with TcpProxy("127.0.0.1", dead_port) as proxy, connected(proxy) as (reader, _):
        with pytest.raises(ConnectionError):
            await reader.readexactly(1)


async def test_leaving_ends_open_and_stalled_connections():
    async with echo_behind_proxy() as proxy, connected(proxy) as connection:
        await ask(connection, b"works")
        proxy.stall()
        await proxy.__aexit__()
        assert proxy.open_connections == 0
