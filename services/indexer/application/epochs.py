"""The epochs as this replica sees them, and their transitions.

A view is used for `view_seconds` at most and then loaded again before anything is
written or searched by it. So a new epoch takes all writes of all replicas once it is
older than that, which the promotion waits for before it compares.
"""

import asyncio

import structlog

from services.indexer.application.ports import Embedder, EpochStore
from services.indexer.domain.epochs import Catalogue, Model, Naming
from services.shared.clock import Clock
from services.shared.errors import ServiceError
from services.shared.lifecycle import wait_for_event

logger = structlog.stdlib.get_logger(__name__)

PROBE_PROJECT = "indexer"
_PROBE_TEXT = "scristill"
_FIRST_REQUEST = "first"


class Epochs:
    """`model` is that of the first epoch; empty takes the gateway's default."""

    def __init__(
        self, *, store: EpochStore, embedder: Embedder, clock: Clock, name: Naming, model: str, view_seconds: float
    ) -> None:
        self._store = store
        self._embedder = embedder
        self._clock = clock
        self._name = name
        self._model = model
        self._view_seconds = view_seconds
        self._view: Catalogue | None = None
        self._loaded_at = 0.0
        self._doubts = 0
        self._doubts_settled = 0
        self._loading = asyncio.Lock()

    async def view(self) -> Catalogue:
        """A catalogue no older than `view_seconds`, with an epoch that serves; the first call creates one."""
        if not self._fresh():
            async with self._loading:
                if not self._fresh():
                    await self._load()
        assert self._view is not None  # noqa: S101 - set by _load, which raises otherwise
        return self._view

    def forget(self) -> None:
        """The store disagreed with the view: load it again before the next use, whoever is loading it now."""
        self._doubts += 1

    def _fresh(self) -> bool:
        age = self._clock.monotonic() - self._loaded_at
        return self._view is not None and self._doubts == self._doubts_settled and age <= self._view_seconds

    async def run(self, stop: asyncio.Event) -> None:
        """Keeps the view fresh, so that no caller waits for it."""
        while not stop.is_set():
            try:
                async with self._loading:
                    await self._load()
            except ServiceError as error:
                logger.warning("epochs_not_loaded", reason=error.reason.name, message=error.message)
            await wait_for_event(stop, self._view_seconds / 2)

    async def _load(self) -> None:
        started, doubts = self._clock.monotonic(), self._doubts
        trusted = self._view if doubts == self._doubts_settled else None
        catalogue = await self._store.load()
        if catalogue.empty:
            catalogue = await self._create_first()
        if catalogue != trusted:
            for epoch in catalogue.writable:
                await self._store.ensure_collection(epoch)
            await self._store.serve(catalogue.serving)
            logger.info("epochs_loaded", revision=catalogue.revision, serving=catalogue.serving.number)
        self._view = catalogue
        self._loaded_at = started
        self._doubts_settled = doubts

    async def _create_first(self) -> Catalogue:
        model = await self.probe(self._model)
        now = self._clock.now()
        first = Catalogue().create(model=model, name=self._name, now=now, request_id=_FIRST_REQUEST)
        created = await self._store.replace(first)
        return first if created else await self._store.load()

    async def probe(self, model: str) -> Model:
        """Asks the gateway for the full name of a model and the length of its vectors."""
        answer = await self._embedder.embed([_PROBE_TEXT], project_id=PROBE_PROJECT, model=model, priority=0)
        return Model(name=answer.model, dimension=answer.dimension)
