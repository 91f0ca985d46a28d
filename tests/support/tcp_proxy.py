"""A TCP proxy that misbehaves on request, for tests of lost, stalled and slow connections."""

import asyncio
import socket
import struct
from typing import Self

CHUNK_BYTES = 65_536


class TcpProxy:
    """Forwards 127.0.0.1:`port` to `upstream`; used as `async with TcpProxy(host, port) as proxy`.

    A fault holds for existing and for new connections until `resume`:

    - `cut`: existing connections are reset, new ones as soon as they are accepted;
    - `stall`: connections stay open and new ones are accepted, but not a byte moves, as behind a dead router;
    - `mute`: what is asked arrives and is obeyed, but no answer comes back;
    - `delay(seconds)`: each piece of data arrives so much later.

    `reset_connections` is a single blow: the next connection works.
    """

    def __init__(self, host: str, port: int) -> None:
        self.upstream = (host, port)
        self.port = 0
        self.accepted = 0
        """Connections so far, those that were reset at once included."""
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._answering = asyncio.Event()
        self._answering.set()
        self._is_cut = False
        self._delay = 0.0

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._server is not None:
            self._server.close()
        self.cut()
        if self._tasks:
            await asyncio.wait(self._tasks)
        if self._server is not None:
            await self._server.wait_closed()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def open_connections(self) -> int:
        return len(self._tasks)

    def cut(self) -> None:
        self._is_cut = True
        self.reset_connections()

    def stall(self) -> None:
        self._flowing.clear()

    def mute(self) -> None:
        self._answering.clear()

    def delay(self, seconds: float) -> None:
        self._delay = seconds

    def resume(self) -> None:
        self._is_cut = False
        self._delay = 0.0
        self._flowing.set()
        self._answering.set()

    def reset_connections(self) -> None:
        for writer in self._writers:
            reset(writer)
        for task in self._tasks:
            task.cancel()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.accepted += 1
        self._tasks.add(task)
        try:
            await self._connect(reader, writer)
        except asyncio.CancelledError:
            # By reset_connections. The stream server's callback would report it as an error.
            pass
        finally:
            self._tasks.discard(task)

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._is_cut:
            reset(writer)
            return
        writers = {writer}
        self._writers |= writers
        try:
            await self._flowing.wait()
            upstream_reader, upstream_writer = await asyncio.open_connection(*self.upstream)
            writers.add(upstream_writer)
            self._writers.add(upstream_writer)
            async with asyncio.TaskGroup() as group:
                group.create_task(self._pump(reader, upstream_writer, self._flowing))
                group.create_task(self._pump(upstream_reader, writer, self._flowing, self._answering))
        except* OSError:
            # One side is gone; the other learns it by the reset below.
            pass
        finally:
            self._writers -= writers
            for each in writers:
                reset(each)

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *gates: asyncio.Event) -> None:
        while chunk := await reader.read(CHUNK_BYTES):
            await self._pass(gates)
            writer.write(chunk)
            await writer.drain()
        await self._pass(gates)
        writer.write_eof()

    async def _pass(self, gates: tuple[asyncio.Event, ...]) -> None:
        if self._delay:
            await asyncio.sleep(self._delay)
        for gate in gates:
            await gate.wait()


def reset(writer: asyncio.StreamWriter) -> None:
    """Closes with RST when data is lost by it, else as the operating system sees fit."""
    connection = writer.get_extra_info("socket")
    if connection is not None and connection.fileno() >= 0:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
