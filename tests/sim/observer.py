"""The invariants, checked at every commit, every landing and every answer of a search, and once more when all is calm.

1. A point never goes back to a lower version, not even after its tombstone was collected: no stale
   overwrite, no resurrection. Only a store that was restored starts again from what it holds.
2. `embedding_id` is recorded, and an intent leaves the outbox, only for a version that has landed: no unknown,
   failed or superseded outcome counts as success.
3. A live fact that the index has not acknowledged always has an intent of exactly its version, or a dead letter.
4. Versions of a fact grow.
5. A lease that has not expired is not taken from its holder.
6. Without a damaged or restored store a reconciliation repairs nothing.
7. A search sees what was acknowledged before it began, with a token what was committed before that was given out,
   and compares vectors of one model only.
8. At rest: live facts = live points, digests byte-equal, every live fact has an `embedding_id`.
"""

from uuid import UUID

from services.extractor.domain import reconciliation
from services.extractor.domain.outbox import IndexedFact, Operation
from services.indexer.domain.digest import DigestTable
from services.indexer.domain.epochs import Epoch, EpochState
from services.indexer.domain.fact import FactId
from services.indexer.domain.identity import BUCKET_COUNT, embedding_id
from services.indexer.domain.search import Hit
from tests.sim.database import Database, OutboxRow, Tables, Transaction, fact_state
from tests.sim.index_ports import share_of
from tests.sim.qdrant import Qdrant, StoredPoint
from tests.sim.world import World

Acknowledged = dict[UUID, tuple[int, bool]]
"""By fact: the version, and whether it is alive."""


class Observer:
    """`tainted`: a store was restored or damaged, and only a reconciliation can mend that."""

    def __init__(self, world: World, database: Database, qdrant: Qdrant) -> None:
        self._world = world
        self._database = database
        self._qdrant = qdrant
        self.tainted = False
        self.index_tainted = False
        self.restored_at = 0.0
        self.acknowledged: Acknowledged = {}
        self._landed: dict[tuple[str, int], set[tuple[bytes, bool]]] = {}
        self._tombstones: set[tuple[str, int]] = set()
        self._floors: dict[tuple[str, str], int] = {}
        self._versions: dict[UUID, int] = {}
        self._gone: set[UUID] = set()
        self._leases: dict[UUID, tuple[UUID | None, float]] = {}
        database.watch = self._commit
        qdrant.watch = self._landing

    def index_changed(self) -> None:
        """Qdrant was restored or damaged behind everybody's back."""
        self.tainted = self.index_tainted = True
        self._start_again()

    def database_restored(self) -> None:
        self.tainted = True
        self.restored_at = self._world.loop.time()
        self._start_again()
        self._versions.clear()
        self._leases.clear()
        self.acknowledged.clear()

    def _start_again(self) -> None:
        self._floors = {
            (name, each): point.version
            for name, points in self._qdrant.collections.items()
            for each, point in points.items()
        }

    # -- the index -----------------------------------------------------------------

    def _landing(self, collection: str, point_id: str, before: StoredPoint | None, now: StoredPoint | None) -> None:
        if now is None:
            if before is not None and not before.tombstone:
                self._world.broken("a live point was removed", (collection, before.fact_id, before.version))
            return
        self._landed.setdefault((point_id, now.version), set()).add((now.content_hash, now.tombstone))
        if now.tombstone:
            self._tombstones.add((now.fact_id, now.version))
        if all(epoch.collection != collection for epoch in self._qdrant.catalogue.writable):
            # An epoch that was dropped is searched by nobody, even where a late request made its collection again.
            return
        floor = self._floors.get((collection, point_id), 0)
        subject = (collection, now.fact_id, f"{floor} -> {now.version}")
        same = before is not None and before.version == now.version and before.content_hash == now.content_hash
        if before is None and now.version <= floor and not now.tombstone:
            self._world.broken("a fact whose tombstone was collected came back", subject)
        elif before is not None and now.version <= before.version and not same:
            self._world.broken("a point went back to an older version", subject)
        epoch = next(each for each in self._qdrant.catalogue.epochs if each.collection == collection)
        if not now.tombstone and now.epoch != epoch.number:
            self._world.broken("a point of another epoch", subject)
        if not now.tombstone and now.model != float(epoch.model.rpartition("-")[2]):
            self._world.broken("a vector of another model", (*subject, now.model))
        self._floors[collection, point_id] = now.version

    # -- the database --------------------------------------------------------------

    def _commit(self, transaction: Transaction, before: Tables, after: Tables) -> None:
        for kind, what in transaction.notes:
            if kind == "recorded":
                self._recorded(what, after)
            elif kind == "settled":
                self._settled(*what)
            elif kind == "leased":
                self._leased(*what, transaction.now)
            elif kind == "returned":
                self._returned(*what)
            elif kind in ("found", "repaired") and what and not self.tainted:
                self._world.broken(
                    f"a drift was {kind} where there is none",
                    [(str(drift.fact_id)[:8], drift.kind.name) for drift in what],
                )
            elif kind == "revised":
                self._revised(what, before)
        for key in transaction.touched:
            self._has_intent(key, after)
            self._grows(key, after)

    def _revised(self, drifts: list[reconciliation.Drift], before: Tables) -> None:
        """A repair holds for what was compared."""
        for drift in drifts:
            fact = before.facts.get(drift.fact_id)
            if (fact.version if fact else 0) != drift.stored_version:
                self._world.broken("a repair of another version than compared", (drift.fact_id, drift.stored_version))

    def _recorded(self, ack: IndexedFact, after: Tables) -> None:
        fact = after.facts[ack.fact_id]
        held = self._landed.get((str(ack.embedding_id), fact.version), set())
        if (fact.content_hash, False) not in held:
            self._world.broken("an embedding id without a durable point", (ack.fact_id, fact.version, ack.version))
        if str(ack.embedding_id) != embedding_id(ack.epoch or 0, FactId(str(ack.fact_id))):
            self._world.broken("an embedding id of another epoch than recorded", (ack.fact_id, ack.epoch))
        self.acknowledged[ack.fact_id] = fact.version, True

    def _settled(self, key: UUID, row: OutboxRow | None) -> None:
        self._leases.pop(key, None)
        if row is None or row.operation != Operation.DELETE:
            return
        if (str(key), row.version) not in self._tombstones:
            self._world.broken("a deletion counted as done without a tombstone", (key, row.version))
        self.acknowledged[key] = row.version, False

    def _leased(self, key: UUID, row: OutboxRow, now: float) -> None:
        token, until = self._leases.get(key, (None, 0.0))
        if until > now:
            self._world.broken("a lease was taken from its holder", (key, row.version, token, round(until - now, 2)))
        self._leases[key] = row.token, row.due

    def _returned(self, key: UUID, token: UUID | None) -> None:
        if self._leases.get(key, (None, 0.0))[0] == token:
            self._leases.pop(key)

    def _has_intent(self, key: UUID, after: Tables) -> None:
        fact, row, dead = after.facts.get(key), after.outbox.get(key), after.dead.get(key)
        if row is not None:
            stated = row.version if row.operation == Operation.UPSERT else None
            if row.since is None and row.operation == Operation.UPSERT:
                self._world.broken("a fact whose intent nobody waits for", key)
            if stated != (fact.version if fact else None):
                self._world.broken("an intent that does not state its fact", (key, row.version, fact and fact.version))
        elif fact is not None and fact.embedding_id is None and (dead is None or dead.version != fact.version):
            self._world.broken("a fact that nothing will index", (key, fact.version))
        if fact is not None and fact.embedding_id is not None and not self.tainted:
            held = self._landed.get((str(fact.embedding_id), fact.version), set())
            if (fact.content_hash, False) not in held:
                self._world.broken("an embedding id that belongs to an older version", (key, fact.version))

    def _grows(self, key: UUID, after: Tables) -> None:
        fact, row = after.facts.get(key), after.outbox.get(key)
        version = fact.version if fact else row.version if row else 0
        # A tombstone that is issued again crosses with a fact that comes back: the index, if it got that far, answers
        # that it is ahead, and the fact is issued again too.
        crossed = self.tainted and key in self._gone
        if version and version < self._versions.get(key, 0) and not crossed:
            self._world.broken("the version of a fact fell", (key, self._versions[key], version))
        (self._gone.discard if fact else self._gone.add)(key)
        self._versions[key] = version if crossed else max(version, self._versions.get(key, 0))

    # -- searches ------------------------------------------------------------------

    def saw(self, hits: list[Hit], *, epoch: int, project: UUID, since: Acknowledged, then: Tables) -> None:
        """What a search that began with `since` acknowledged and the tables `then` has found."""
        writable = {each.number for each in self._qdrant.catalogue.writable}
        if self.tainted or epoch not in writable:
            return
        found = {UUID(hit.fact_id): hit.version for hit in hits}
        for key, (version, alive) in since.items():
            seen = found.get(key)
            if seen is not None and (seen < version or (seen == version and not alive)):
                self._world.broken("a search saw an older version than acknowledged", (key, seen, version, alive))
            if alive and seen is None and self._steady(key, version, project, then):
                self._world.broken("a search did not see an acknowledged fact", (key, version, epoch))

    def _steady(self, key: UUID, version: int, project: UUID, then: Tables) -> bool:
        """Nothing has happened to the fact between the start of a search and its end."""
        now = self._database.committed
        if key in now.outbox or key in now.dead:
            return False
        for tables in (then, now):
            fact = tables.facts.get(key)
            if fact is None or fact.version != version or fact.project_id != project:
                return False
        return True

    # -- at rest -------------------------------------------------------------------

    def compare(self) -> None:
        """Every epoch that must be whole, against the facts."""
        if self._qdrant.catalogue.empty:
            return
        for epoch in self._qdrant.catalogue.writable:
            whole = epoch.state is EpochState.SERVING or (epoch.state is EpochState.RETIRING and not self.tainted)
            if whole:
                self._compare(epoch)

    def _compare(self, epoch: Epoch) -> None:
        tables = self._database.committed
        facts = {key: row for key, row in tables.facts.items() if key not in tables.dead}
        expected = {
            key: (row.version, row.content_hash, row.project_id, row.source_id, epoch.number)
            for key, row in facts.items()
        }
        points = self._qdrant.collections.get(epoch.collection, {}).values()
        live = [point for point in points if not point.tombstone and UUID(point.fact_id) not in tables.dead]
        found = {
            UUID(each.fact_id): (
                each.version,
                each.content_hash,
                UUID(each.project_id),
                UUID(each.source_id),
                each.epoch,
            )
            for each in live
        }
        if expected != found or len(found) != len(live):
            different = [key for key in expected.keys() | found.keys() if expected.get(key) != found.get(key)]
            self._world.broken(
                "facts and points differ at rest",
                [
                    (str(key), epoch.number, expected.get(key, "no fact")[0], found.get(key, "no point")[0])
                    for key in different
                ],
            )
        elif _sql_digests(tables, facts, epoch) != _index_digests(live):
            self._world.broken("digests differ at rest", epoch.number)
        lacking = [key for key, row in facts.items() if row.embedding_id is None]
        if lacking:
            self._world.broken("a fact without an embedding id at rest", lacking)


def _sql_digests(tables: Tables, facts: dict, epoch: Epoch) -> dict[int, tuple[bytes, int]]:
    """The arithmetic of the extractor."""
    sums: dict[int, reconciliation.Bucket] = {}
    for key, row in facts.items():
        bucket = reconciliation.bucket_of(key)
        mine = reconciliation.share(fact_state(key, row), epoch=epoch.number)
        sums[bucket] = sums.get(bucket, reconciliation.EMPTY).plus(mine)
    return {bucket: (each.digest.to_bytes(16), each.count) for bucket, each in sums.items()}


def _index_digests(live: list[StoredPoint]) -> dict[int, tuple[bytes, int]]:
    """The arithmetic of the indexer."""
    table = DigestTable()
    table.add(share_of(point) for point in live)
    return {row.bucket: (row.digest, row.point_count) for row in table.rows(0, BUCKET_COUNT - 1) if row.point_count}
