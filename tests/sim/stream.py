"""One `IndexFacts` stream: intents one way, acknowledgements the other, over a network that may cut it.

It joins the relay's port `IndexSession` to the indexer's `Intake`, as `adapters/clients/indexer.py` and
`entrypoints/index_stream.py` do. This network is worse than gRPC: frames may come twice and out of order.
What the indexer has begun when the stream breaks goes on; only its acknowledgements are lost.
"""

import asyncio
from array import array
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

from services.extractor.adapters.clients.indexer import _acknowledgement
from services.extractor.domain.outbox import Acknowledgement, FactIntent, Operation
from services.indexer.application.intake import Intake
from services.indexer.domain import fact as indexed
from services.indexer.domain.outcome import Ack, retry
from services.indexer.entrypoints.mapping import ack_to
from services.shared.errors import Code, RemoteError, ServiceError
from tests.sim.host import Host
from tests.sim.world import World

MAX_IN_FLIGHT = 24

Frame = Sequence[Acknowledgement] | None
"""None is the end of the stream with its last frame."""


class IndexStream:
    def __init__(self, world: World, client: Host, server: Host, intake: Intake) -> None:
        self.max_in_flight = MAX_IN_FLIGHT
        self._world = world
        self._client = client
        self._server = server
        self._intake = intake
        self._frames: asyncio.Queue[Frame | RemoteError] = asyncio.Queue()
        self._arrivals = 0.0
        self._under_way = 0
        self._finished = False
        self._cut = False

    async def send(self, intents: Sequence[FactIntent]) -> None:
        await self._client.proceed()
        self._require_open()
        world = self._world
        world.step(self._client.name, "send", [(str(each.intent.key)[:8], each.intent.version) for each in intents])
        messages = [_intent(each) for each in intents]
        self._deliver(lambda: self._receive(messages))
        if world.happens(world.faults.duplicate_frame):
            self._deliver(lambda: self._receive(messages))
        if world.happens(world.faults.cut_stream):
            world.loop.call_later(world.delay(0.01), self.cut)

    async def finish(self) -> None:
        await self._client.proceed()
        self._require_open()
        self._finished = True
        self._end_when_done()

    async def acknowledgements(self) -> AsyncIterator[Sequence[Acknowledgement]]:
        while True:
            frame = await self._frames.get()
            await self._client.proceed()
            if isinstance(frame, RemoteError):
                raise frame
            if frame is None:
                return
            self._world.step(
                self._client.name,
                "acknowledged",
                [(str(each.fact_id)[:8], each.version, each.outcome.name) for each in frame],
            )
            yield frame

    @property
    def server(self) -> Host:
        return self._server

    def drain(self) -> None:
        self._answer([])

    def cut(self) -> None:
        """Both sides lose what is on its way."""
        if not self._cut:
            self._world.step("network", "cut stream", self._client.name)
            self._cut = True
            self._frames.put_nowait(_broken())

    def _deliver(self, arrive: Callable[[], None]) -> None:
        """In order, unless frames are reordered."""
        world = self._world
        at = world.loop.time() + world.delay(0.003)
        if not world.happens(world.faults.reordered_frame):
            at = self._arrivals = max(at, self._arrivals)
        world.loop.call_at(at, arrive)

    def _receive(self, messages: Sequence[indexed.Intent]) -> None:
        if self._cut or self._server.dead:
            self.cut()
            return
        self._under_way += 1
        self._server.spawn(self._apply(messages), name="slice")

    async def _apply(self, messages: Sequence[indexed.Intent]) -> None:
        try:
            await self._server.proceed()
            acks = await self._intake.submit(messages)
        except ServiceError as error:
            acks = [retry(intent, error) for intent in messages]
        await self._server.proceed()
        self._world.step(
            self._server.name,
            "answer",
            [(ack.intent.fact_id[:8], ack.intent.version, ack.outcome.value) for ack in acks],
        )
        self._under_way -= 1
        answers = [_read(ack) for ack in acks]
        self._deliver(lambda: self._answer(answers))
        if self._world.happens(self._world.faults.duplicate_frame):
            self._deliver(lambda: self._answer(answers))
        self._deliver(self._end_when_done)

    def _answer(self, answers: Sequence[Acknowledgement]) -> None:
        if not self._cut:
            self._frames.put_nowait(answers)

    def _end_when_done(self) -> None:
        if self._finished and not self._under_way and not self._cut:
            self._frames.put_nowait(None)

    def _require_open(self) -> None:
        if self._cut or self._server.dead:
            self.cut()
            raise _broken()


class Network:
    """Port `Indexer` of one relay: connects to any indexer that is up."""

    def __init__(self, world: World, client: Host, servers: "Callable[[], Sequence[tuple[Host, Intake]]]") -> None:
        self._world = world
        self._client = client
        self._servers = servers
        self.streams: list[IndexStream] = []

    @asynccontextmanager
    async def session(self) -> AsyncGenerator[IndexStream]:
        await self._client.proceed()
        await self._client.wait(self._world.delay(0.002))
        up = [(host, intake) for host, intake in self._servers() if not host.dead]
        if not up:
            raise _broken()
        server, intake = self._world.rng.choice(up)
        self._world.step(self._client.name, "connect", server.name)
        stream = IndexStream(self._world, self._client, server, intake)
        self.streams.append(stream)
        try:
            yield stream
        finally:
            self.streams.remove(stream)
            stream.cut()


def _broken() -> RemoteError:
    return RemoteError(peer="indexer", code=Code.UNAVAILABLE, message="the stream is broken")


def _intent(leased: FactIntent) -> indexed.Intent:
    """`_intent` of the client and `IntentReader.read` of the server, without the bytes between them."""
    intent = leased.intent
    live = intent.operation is Operation.UPSERT
    return indexed.Intent(
        fact_id=indexed.FactId(str(intent.key)),
        version=intent.version,
        operation=indexed.Operation.UPSERT if live else indexed.Operation.DELETE,
        project_id=str(intent.project_id),
        source_id=str(intent.source_id),
        content_hash=leased.content_hash,
        content=indexed.FactContent(statement=leased.content.statement) if leased.content else None,
        vectors={model: array("f", values) for model, values in leased.vectors.items()},
    )


def _read(ack: Ack) -> Acknowledgement:
    return _acknowledgement(ack_to(ack, return_vectors=True))
