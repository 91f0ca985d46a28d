"""Creates, promotes and drops epochs; each transition is one compare-and-swap of the catalogue.

A new epoch is promoted only when it provably holds what the one that is searched holds:
it must be old enough for every replica to write to it, and the digests of all buckets
must agree. Going back to a retiring epoch needs no gate: it was whole when it served and
has taken every write since.
"""

import asyncio
from collections.abc import Callable
from datetime import timedelta

import structlog

from services.indexer.application.epochs import Epochs
from services.indexer.application.ports import EpochStore, PointScanner
from services.indexer.domain.digest import DigestTable
from services.indexer.domain.epochs import Catalogue, Epoch, EpochState, Naming
from services.indexer.domain.errors import EpochGateOpen
from services.shared.clock import Clock
from services.shared.errors import RequestIdReused, Unavailable

logger = structlog.stdlib.get_logger(__name__)

_SWAP_ATTEMPTS = 5
_COMPARISONS = 5
_PAUSE_SECONDS = 0.2


class SwitchEpochs:
    """`settle_seconds`: age at which an epoch is known to every replica and older writes have ended."""

    def __init__(
        self,
        *,
        epochs: Epochs,
        store: EpochStore,
        scanner: PointScanner,
        clock: Clock,
        name: Naming,
        settle_seconds: float,
    ) -> None:
        self._epochs = epochs
        self._store = store
        self._scanner = scanner
        self._clock = clock
        self._name = name
        self._settle = timedelta(seconds=settle_seconds)

    async def create(self, *, model: str, request_id: str) -> Epoch:
        """The epoch that this request created, now or before."""
        known = (await self._load()).created_by(request_id)
        if known is not None:
            if model and known.model != model:
                raise RequestIdReused(
                    "the request created an epoch of another model", metadata={"request_id": request_id}
                )
            return known
        probed = await self._epochs.probe(model)

        def add(catalogue: Catalogue) -> Catalogue:
            if catalogue.created_by(request_id) is not None:
                return catalogue
            now = self._clock.now()
            return catalogue.create(model=probed, name=self._name, now=now, request_id=request_id)

        catalogue = await self._change(add)
        created = next(epoch for epoch in catalogue.epochs if epoch.request_id == request_id)
        logger.info("epoch_created", epoch=created.number, model=created.model)
        return created

    async def promote(self, number: int) -> Epoch:
        epoch = (await self._load()).get(number)
        if epoch.state is EpochState.BUILDING:
            await self._require_whole(epoch)
        catalogue = await self._change(lambda current: current.promote(number))
        await self._store.serve(catalogue.serving)
        logger.info("epoch_promoted", epoch=number)
        return catalogue.serving

    async def drop(self, number: int) -> None:
        catalogue = await self._change(lambda current: current.drop(number))
        dropped = next(epoch for epoch in catalogue.epochs if epoch.number == number)
        await self._store.drop_collection(dropped)
        logger.info("epoch_dropped", epoch=number)

    async def _load(self) -> Catalogue:
        """Past the cached view, which may be older than the caller's last transition."""
        self._epochs.forget()
        return await self._epochs.view()

    async def _change(self, transition: Callable[[Catalogue], Catalogue]) -> Catalogue:
        for _ in range(_SWAP_ATTEMPTS):
            current = await self._load()
            changed = transition(current)
            if changed is current:
                return current
            for epoch in changed.writable:
                # Before the epoch is announced: nobody may write to a collection that is not there yet.
                await self._store.ensure_collection(epoch)
            if await self._store.replace(changed):
                self._epochs.forget()
                return changed
            await self._abandon(changed, current)
        raise Unavailable.of("qdrant")

    async def _abandon(self, changed: Catalogue, current: Catalogue) -> None:
        """Another transition was faster: nobody will ever know the collection that was made for this one."""
        known = {epoch.collection for epoch in current.epochs}
        for epoch in changed.epochs:
            if epoch.collection not in known:
                await self._store.drop_collection(epoch)

    async def _require_whole(self, epoch: Epoch) -> None:
        age = self._clock.now() - epoch.created
        if age < self._settle:
            seconds = (self._settle - age).total_seconds()
            raise EpochGateOpen.of(
                epoch.number, "settled", "is not known to all replicas yet", retry_after_seconds=round(seconds, 1)
            )
        differing = await self._differing(epoch)
        if differing:
            raise EpochGateOpen.of(
                epoch.number, "digest", "does not hold what the serving epoch holds", differing_buckets=len(differing)
            )

    async def _differing(self, epoch: Epoch) -> list[int]:
        """Buckets that stay different; those that differ only while a write is on its way are looked at again."""
        serving = (await self._epochs.view()).serving
        differing: list[int] | None = None
        for _ in range(_COMPARISONS):
            mine, theirs = await self._table(epoch, differing), await self._table(serving, differing)
            differing = mine.differing(theirs)
            if not differing:
                break
            await asyncio.sleep(_PAUSE_SECONDS)
        return differing or []

    async def _table(self, epoch: Epoch, buckets: list[int] | None) -> DigestTable:
        """Digests of the facts alone: the epoch is left out, so that two epochs can be compared."""
        table = DigestTable()
        async for shares in self._scanner.shares(epoch, buckets=buckets, as_epoch=0):
            table.add(shares.live)
        return table
