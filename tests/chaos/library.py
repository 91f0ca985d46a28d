"""A client that fills a project, and remembers exactly what it was answered for.

Each operation is repeated until it is answered, as a client does that means it. All of them are idempotent, so that
what the library says must hold, word for word, once the suite is at rest.
"""

import asyncio
import random
import re
from collections.abc import Awaitable, Callable
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

import grpc.aio
from scristill.extractor.v1 import source_pb2, source_service_pb2

from tests.support.invariants import Peers

ANSWERED_WITHIN = 120.0
ONE_TRY = 10.0
AGAIN_AFTER = 0.2
PASSING = {
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.ABORTED,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
}

SHIPS = ("Concordia", "Aurora", "Minerva", "Fortuna", "Vesta")
NUMBER = re.compile(r"^Der Dampfer \w+ (\d+) ")


def sentence(number: int) -> str:
    """German, which the embedded model reads by rule: one fact of each, whatever stands beside it."""
    return f"Der Dampfer {SHIPS[number % 5]} {number} verbindet die Insel mit der Stadt."


def number_in(text: str) -> int | None:
    """Which sentence a text was made of."""
    found = NUMBER.search(text)
    return int(found[1]) if found else None


async def answered(call: Callable[[], Awaitable[Any]], *, within: float = ANSWERED_WITHIN) -> Any:
    async with asyncio.timeout(within):
        while True:
            try:
                return await call()
            except grpc.aio.AioRpcError as error:
                if error.code() not in PASSING:
                    raise
            await asyncio.sleep(AGAIN_AFTER)


@dataclass(slots=True)
class Shelf:
    """What must be found: `texts` by URI, as lists of sentences; and what must not be: `retired` sentences."""

    texts: dict[str, list[str]] = field(default_factory=dict)
    source_ids: dict[str, str] = field(default_factory=dict)
    retired: set[str] = field(default_factory=set)

    def put(self, uri: str, sentences: list[str]) -> None:
        self.retired |= set(self.texts.get(uri, ())) - set(sentences)
        self.texts[uri] = sentences

    def drop(self, uri: str) -> None:
        self.retired |= set(self.texts.pop(uri))


@dataclass(slots=True, kw_only=True)
class Library:
    peers: Peers
    project_id: str
    rng: random.Random
    sentences_each: int = 12
    shelf: Shelf = field(default_factory=Shelf)
    _numbers: int = 0
    # One writer at a time: a test writes while the load does, and the shelf must know who came last.
    _turn: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def add(self, count: int = 1) -> None:
        self._numbers += 1
        uris = [f"book:{self._numbers}-{index}" for index in range(count)]
        async with self._turn:
            await self._write({uri: [self._sentence() for _ in range(self.sentences_each)] for uri in uris})

    async def edit(self, uri: str) -> None:
        """One sentence in three reads differently afterwards. A text that is gone stays so."""
        async with self._turn:
            known = self.shelf.texts.get(uri)
            if known is not None:
                await self._write({uri: [old if index % 3 else self._sentence() for index, old in enumerate(known)]})

    async def repeat(self, uri: str) -> None:
        async with self._turn:
            if uri in self.shelf.texts:
                await self._write({uri: self.shelf.texts[uri]})

    async def delete(self, uri: str) -> None:
        async with self._turn:
            if uri not in self.shelf.texts:
                return
            request = source_service_pb2.DeleteSourceRequest(source_id=self.shelf.source_ids[uri])
            try:
                await answered(lambda: self.peers.sources.DeleteSource(request, timeout=ONE_TRY))
            except grpc.aio.AioRpcError as error:
                # A try before this one did it, and its answer was lost.
                if error.code() is not grpc.StatusCode.NOT_FOUND:
                    raise
            self.shelf.drop(uri)

    async def step(self) -> None:
        """One operation, by lot."""
        known = sorted(self.shelf.texts)
        lot = self.rng.random()
        if len(known) < 4 or lot < 0.4:
            await self.add()
        elif lot < 0.75:
            await self.edit(self.rng.choice(known))
        elif lot < 0.9:
            await self.delete(self.rng.choice(known))
        else:
            await self.repeat(self.rng.choice(known))

    def copy(self) -> Shelf:
        return deepcopy(self.shelf)

    def go_back_to(self, earlier: Shelf) -> None:
        """The database forgot what came after; sentences of that time are nowhere any more."""
        present = {each for sentences in earlier.texts.values() for each in sentences}
        lost = {each for sentences in self.shelf.texts.values() for each in sentences}
        self.shelf = Shelf(
            texts=earlier.texts, source_ids=earlier.source_ids, retired=(self.shelf.retired | lost) - present
        )

    async def _write(self, texts: dict[str, list[str]]) -> None:
        request = source_service_pb2.CreateSourcesRequest(
            project_id=self.project_id,
            sources=[
                source_service_pb2.NewSource(spec=source_pb2.SourceSpec(uri=uri, title=uri), text=" ".join(sentences))
                for uri, sentences in texts.items()
            ],
        )
        response = await answered(lambda: self.peers.sources.CreateSources(request, timeout=ONE_TRY))
        for (uri, sentences), result in zip(texts.items(), response.results, strict=True):
            assert not result.HasField("failure"), result.failure
            self.shelf.put(uri, sentences)
            self.shelf.source_ids[uri] = result.source.source_id

    def _sentence(self) -> str:
        self._numbers += 1
        return sentence(self._numbers)
