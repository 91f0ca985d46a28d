"""One stream of `IndexFacts`: a reader that fills the intake, a writer that sends what came of it.

An intent counts as held from its arrival until its acknowledgement was handed to the
transport, so a client that does not read its acknowledgements stops being read itself.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Sequence
from datetime import timedelta

import structlog
from google.protobuf.duration_pb2 import Duration
from scristill.indexer.v1 import fact_pb2
from scristill.indexer.v1 import indexer_service_pb2 as pb

from services.indexer.application.epochs import Epochs
from services.indexer.application.intake import SLICE, Intake
from services.indexer.domain.epochs import Catalogue
from services.indexer.domain.fact import Intent
from services.indexer.domain.outcome import retry
from services.indexer.entrypoints import mapping
from services.indexer.entrypoints.credit import Credit
from services.shared.errors import InvalidRequest, ServiceError
from services.shared.lifecycle import Drain

logger = structlog.stdlib.get_logger(__name__)

RECONNECT_DELAY = timedelta(seconds=1)


class IndexStream:
    def __init__(
        self, *, intake: Intake, epochs: Epochs, reader: mapping.IntentReader, credit: Credit, drain: Drain
    ) -> None:
        self._intake = intake
        self._epochs = epochs
        self._reader = reader
        self._credit = credit
        self._drain = drain
        self._ready: deque[fact_pb2.IntentAck] = deque()
        self._changed = asyncio.Event()
        self._acknowledged = 0
        self._return_vectors = False

    async def frames(
        self, requests: AsyncIterator[pb.IndexFactsRequest], *, max_in_flight: int
    ) -> AsyncIterator[pb.IndexFactsResponse]:
        reading = asyncio.create_task(self._read(requests), name="index-stream:read")
        draining = asyncio.create_task(self._drain.wait(), name="index-stream:drain")
        try:
            catalogue = await self._epochs.view()
            yield _opened(catalogue, max_in_flight)
            async for frame in self._answers(reading, draining):
                yield frame
        finally:
            await _end([reading, draining])
            self._credit.give(self._credit.held)

    async def _answers(
        self, reading: "asyncio.Task[None]", draining: "asyncio.Task[None]"
    ) -> AsyncIterator[pb.IndexFactsResponse]:
        for task in (reading, draining):
            task.add_done_callback(lambda _: self._changed.set())
        announced = False
        while True:
            await self._changed.wait()
            self._changed.clear()
            if draining.done() and not announced:
                announced = True
                yield _draining()
            if self._ready:
                acks = list(self._ready)
                self._ready.clear()
                yield pb.IndexFactsResponse(acks=pb.IntentAcks(acks=acks))
                self._acknowledged += len(acks)
                self._credit.give(len(acks))
            if reading.done():
                reading.result()
                if not self._credit.held:
                    yield _done(self._acknowledged)
                    return

    async def _read(self, requests: AsyncIterator[pb.IndexFactsRequest]) -> None:
        """Ends when the client has closed its side and every intent of the stream is decided."""
        opened = False
        async with asyncio.TaskGroup() as slices:
            async for request in requests:
                if (request.WhichOneof("frame") == "open") is opened:
                    raise InvalidRequest.of("frame", "`open` must be the first frame, and only the first")
                if opened:
                    await self._take(request.batch.intents, slices)
                else:
                    opened = True
                    self._return_vectors = request.open.return_vectors
                    logger.info("index_stream_opened", client_id=request.open.client_id)
                await self._credit.available()

    async def _take(self, messages: Sequence[fact_pb2.FactIntent], slices: asyncio.TaskGroup) -> None:
        self._credit.take(len(messages))
        for start in range(0, len(messages), SLICE):
            intents = self._admit(messages[start : start + SLICE])
            if intents:
                slices.create_task(self._submit(intents), name="index-stream:slice")
            # A large frame must not hold the event loop: others get their turn between slices.
            await asyncio.sleep(0)

    def _admit(self, messages: Sequence[fact_pb2.FactIntent]) -> list[Intent]:
        """Those that are valid; the others are answered at once."""
        intents: list[Intent] = []
        for message in messages:
            try:
                intents.append(self._reader.read(message))
            except ServiceError as error:
                self._ready.append(mapping.rejection_to(message, error))
                self._changed.set()
        return intents

    async def _submit(self, intents: list[Intent]) -> None:
        try:
            acks = await self._intake.submit(intents)
        except ServiceError as error:
            acks = [retry(intent, error) for intent in intents]
        self._ready.extend(mapping.ack_to(ack, return_vectors=self._return_vectors) for ack in acks)
        self._changed.set()


def _opened(catalogue: Catalogue, max_in_flight: int) -> pb.IndexFactsResponse:
    epochs = [mapping.epoch_to(epoch) for epoch in catalogue.writable]
    return pb.IndexFactsResponse(opened=pb.IndexStreamOpened(epochs=epochs, max_in_flight=max_in_flight))


def _draining() -> pb.IndexFactsResponse:
    delay = Duration()
    delay.FromTimedelta(RECONNECT_DELAY)
    return pb.IndexFactsResponse(draining=pb.IndexStreamDraining(reconnect_delay=delay))


def _done(count: int) -> pb.IndexFactsResponse:
    return pb.IndexFactsResponse(done=pb.IndexStreamDone(acknowledged_count=count))


async def _end(tasks: Sequence["asyncio.Task[None]"]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
