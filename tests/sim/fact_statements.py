"""The statements of `adapters/postgres/facts.py`, each in the words of the model.

A docstring names the constant that a method mirrors; a guard of its WHERE clause or SET list that can
be taken out is asked for by `world.on`.
"""

# ruff: noqa: ARG002 - the signatures are those of the ports

from collections.abc import Iterable, Sequence
from typing import NamedTuple
from uuid import UUID

from services.extractor.domain.outbox import IndexedFact, KeptVector, Operation
from tests.sim.database import FactRow, OutboxRow, Tables, Transaction


class Change(NamedTuple):
    key: UUID
    operation: Operation
    version: int
    project_id: UUID
    source_id: UUID


class NewFact(NamedTuple):
    fact_id: UUID
    content_hash: bytes
    statement: str
    moved: bool = False
    """Found in another chunk than before: it is written again though it says the same."""


class FactStatements:
    def __init__(self, transaction: Transaction) -> None:
        self._transaction = transaction
        self._world = transaction.world

    async def replace(
        self, project_id: UUID, source_id: UUID, facts: Sequence[NewFact], *, traceparent: str = ""
    ) -> tuple[int, int]:
        """_REPLACE. The INSERT draws versions before it waits for rows that others have locked, the UPDATE after."""
        transaction = self._transaction
        await transaction.statement("replace facts", len(facts))
        drawn = [(fact, transaction.database.nextval()) for fact in facts]
        tables = await transaction.lock()
        changes: list[Change] = []
        for fact, proposed in drawn:
            held, version = tables.facts.get(fact.fact_id), proposed
            if held is not None and held.content_hash == fact.content_hash and not fact.moved:
                continue
            if held is not None and self._world.on("edit.draws_under_lock"):
                version = transaction.database.nextval()
            kept = held and not self._world.on("edit.clears_embedding")
            tables.facts[fact.fact_id] = FactRow(
                project_id,
                source_id,
                version,
                fact.content_hash,
                fact.statement,
                held.embedding_id if kept else None,
                held.embedding_epoch if kept else None,
                transaction.now,
            )
            changes.append(Change(fact.fact_id, Operation.UPSERT, version, project_id, source_id))
        incoming = {fact.fact_id for fact in facts}
        gone = [key for key, row in tables.facts.items() if row.source_id == source_id and key not in incoming]
        deletions = self._delete(tables, gone)
        self._intend(tables, [*changes, *deletions])
        return len(changes), len(deletions)

    async def delete(self, source_ids: Sequence[UUID], *, traceparent: str = "") -> int:
        """_DELETE."""
        transaction = self._transaction
        await transaction.statement("delete facts")
        tables = await transaction.lock()
        wanted = set(source_ids)
        changes = self._delete(tables, [key for key, row in tables.facts.items() if row.source_id in wanted])
        self._intend(tables, changes)
        return len(changes)

    async def update_embedding_ids_batch(self, indexed: Sequence[IndexedFact]) -> set[UUID]:
        """_ACKNOWLEDGE, _FREE where it missed, and _KEEP_VECTORS."""
        if not indexed:
            return set()
        transaction, world = self._transaction, self._world
        await transaction.statement("acknowledge", [(str(each.fact_id)[:8], each.version) for each in indexed])
        joined = transaction.tables.outbox
        tables = await transaction.lock()
        recorded: set[UUID] = set()
        missed: list[IndexedFact] = []
        for each in indexed:
            key = each.fact_id
            transaction.touched.add(key)
            fact, row = tables.facts.get(key), tables.outbox.get(key)
            same = fact is not None and (fact.version == each.version or not world.on("ack.fact_version"))
            # The UPDATE looks at the fact again after its lock, and at the intent as its snapshot had it. The DELETE
            # looks at the intent again, if its snapshot had it: a lease that was committed since is not seen.
            answered = self._answers(each, joined.get(key))
            same = same and answered
            if fact is not None and same and each.embedding_id is not None:
                tables.facts[key] = fact._replace(embedding_id=each.embedding_id, embedding_epoch=each.epoch)
                recorded.add(key)
                transaction.notes.append(("recorded", each))
            if row is not None and answered and self._answers(each, row):
                del tables.outbox[key]
                transaction.notes.append(("settled", (key, row)))
            else:
                missed.append(each)
        if missed:
            await self._free(tables, missed)
        for each in indexed:
            if each.vectors and each.fact_id in recorded:
                new = {vector.model: vector for vector in each.vectors}
                tables.vectors[each.fact_id] = tables.vectors.get(each.fact_id, {}) | new
        return recorded

    def _answers(self, each: IndexedFact, row: OutboxRow | None) -> bool:
        on = self._world.on
        return (
            row is not None
            and (row.version == each.version or not on("ack.outbox_version"))
            and (row.token == each.lease_token or not on("ack.lease"))
        )

    async def vectors(self, fact_ids: Sequence[UUID]) -> list[KeptVector]:
        """_VECTORS."""
        await self._transaction.statement("vectors", len(fact_ids))
        tables = self._transaction.tables
        return [vector for each in fact_ids for vector in tables.vectors.get(each, {}).values()]

    async def forget_vectors(self, fact_ids: Sequence[UUID]) -> None:
        """_FORGET_VECTORS."""
        await self._transaction.statement("forget vectors", len(fact_ids))
        tables = await self._transaction.lock()
        for each in fact_ids:
            tables.vectors.pop(each, None)

    async def _free(self, tables: Tables, missed: Iterable[IndexedFact]) -> None:
        await self._transaction.statement("free newer")
        for each in missed:
            row = tables.outbox.get(each.fact_id)
            holds = row is not None and (row.token == each.lease_token or not self._world.on("lease.token"))
            if row is not None and row.version > each.version and holds:
                tables.outbox[each.fact_id] = row._replace(owner=None, due=self._transaction.now)
                self._transaction.notes.append(("returned", (each.fact_id, each.lease_token)))

    def _delete(self, tables: Tables, keys: Sequence[UUID]) -> list[Change]:
        changes: list[Change] = []
        for key in keys:
            row = tables.facts.pop(key)
            tables.vectors.pop(key, None)
            version = self._transaction.database.nextval()
            changes.append(Change(key, Operation.DELETE, version, row.project_id, row.source_id))
        return changes

    def _intend(self, tables: Tables, changes: Iterable[Change]) -> None:
        """_INTENTS: a newer intent takes the place of the one that waits, and a lease stays."""
        now = self._transaction.now
        for change in changes:
            self._transaction.touched.add(change.key)
            tables.dead.pop(change.key, None)
            if not self._world.on("publish.one_transaction") and self._world.rng.random() < 0.02:
                continue
            held = tables.outbox.get(change.key)
            keeps = held is not None and held.owner is not None and self._world.on("supersede.keeps_lease")
            tables.outbox[change.key] = OutboxRow(
                int(change.operation),
                change.version,
                change.project_id,
                change.source_id,
                held.due if held and keeps else now,
                0,
                held.owner if held else None,
                held.token if held else None,
                held.since if held else change.version,
            )
