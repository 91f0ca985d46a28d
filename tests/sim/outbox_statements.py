"""The statements of `adapters/postgres/outbox.py` that the fact relay and the operators use."""

# ruff: noqa: ARG002 - the signatures are those of the ports

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from uuid import UUID

from services.extractor.domain.outbox import FactContent, FactIntent, Intent, Operation, Postponed, Rejection, Topic
from tests.sim.database import DeadRow, FactRow, OutboxRow, Transaction

_TIME = datetime(2030, 1, 1, tzinfo=UTC)


class OutboxStatements:
    def __init__(self, transaction: Transaction) -> None:
        self._transaction = transaction
        self._world = transaction.world

    async def lease_facts(self, *, owner: str, limit: int, lease: timedelta) -> tuple[list[FactIntent], list[Intent]]:
        """_LEASE_FACTS. Facts are joined as of the statement's snapshot, rows are as their lock finds them."""
        transaction = self._transaction
        await transaction.statement("lease")
        database = transaction.database
        snapshot = database.committed
        tables = await transaction.lock()
        if self._world.happens(self._world.faults.old_snapshot):
            snapshot = database.previous
        due = sorted((row.due, key) for key, row in tables.outbox.items() if row.due <= transaction.now)[:limit]
        ready: list[FactIntent] = []
        replaced: list[Intent] = []
        for _, key in due:
            row = tables.outbox[key]
            leased = row._replace(
                owner=owner,
                token=UUID(int=self._world.rng.getrandbits(128)),
                due=transaction.now + lease.total_seconds(),
                attempts=row.attempts + 1,
                away=False,
            )
            tables.outbox[key] = leased
            transaction.notes.append(("leased", (key, leased)))
            intent = _intent(key, leased)
            fact = snapshot.facts.get(key)
            if leased.operation == Operation.DELETE:
                ready.append(FactIntent(intent=intent, content_hash=bytes(32)))
            elif fact is not None and (fact.version == leased.version or not self._world.on("lease.content_version")):
                ready.append(FactIntent(intent=intent, content_hash=fact.content_hash, content=_content(fact)))
            else:
                replaced.append(intent)
        return ready, replaced

    async def postpone(self, topic: Topic, postponed: Sequence[Postponed]) -> None:
        """_POSTPONE and _FREE."""
        transaction = self._transaction
        await transaction.statement("postpone", [(str(each.key)[:8], each.version) for each in postponed])
        tables = await transaction.lock()
        for each in postponed:
            row = tables.outbox.get(each.key)
            if row is not None and row.version == each.version and self._holds(row, each.lease_token):
                due = transaction.now + each.delay.total_seconds()
                tables.outbox[each.key] = row._replace(owner=None, due=due, away=each.away)
                transaction.notes.append(("returned", (each.key, each.lease_token)))
        await self._free([(each.key, each.version, each.lease_token) for each in postponed])

    async def pull_forward(self, *, limit: int) -> int:
        """_PULL_FORWARD."""
        transaction = self._transaction
        await transaction.statement("pull forward")
        tables = await transaction.lock()
        away = sorted((row.due, key) for key, row in tables.outbox.items() if row.away and row.due > transaction.now)
        for _, key in away[:limit]:
            tables.outbox[key] = tables.outbox[key]._replace(due=transaction.now, away=False)
        return len(away[:limit])

    async def bury(self, topic: Topic, rejections: Sequence[Rejection]) -> list[UUID]:
        """_BURY and _FREE."""
        transaction = self._transaction
        await transaction.statement("bury", [(str(each.key)[:8], each.version) for each in rejections])
        tables = await transaction.lock()
        buried: list[UUID] = []
        for each in rejections:
            transaction.touched.add(each.key)
            row = tables.outbox.get(each.key)
            same = row is not None and (row.version == each.version or not self._world.on("bury.version"))
            if row is not None and same and self._holds(row, each.lease_token):
                del tables.outbox[each.key]
                tables.dead[each.key] = DeadRow(row.operation, each.version, row.project_id, row.source_id)
                transaction.notes.append(("settled", (each.key, None)))
                buried.append(each.key)
        await self._free([(each.key, each.version, each.lease_token) for each in rejections])
        return buried

    async def reissue(self, intents: Sequence[Intent]) -> list[UUID]:
        """_LOCK_FACTS, _FREE, _BEHIND, OUTRUN, _REISSUE and SUSPECT."""
        transaction = self._transaction
        await self._free([(each.key, each.version, each.lease_token) for each in intents])
        await transaction.statement("reissue", [(str(each.key)[:8], each.version) for each in intents])
        tables = await transaction.lock()
        stale = sorted({each.key for each in intents if self._states(each)})
        if not stale:
            return []
        database = transaction.database
        database.raise_sequence(database.clock_micros())
        for key in stale:
            version = database.nextval()
            transaction.touched.add(key)
            fact = tables.facts.get(key)
            if fact is not None:
                tables.facts[key] = fact._replace(version=version, embedding_id=None, embedding_epoch=None)
            row = tables.outbox[key]
            tables.outbox[key] = row._replace(version=version, owner=None, due=transaction.now)
            transaction.notes.append(("returned", (key, row.token)))
        tables.suspected = transaction.now
        return stale

    async def requeue_orphans(self, *, older_than: timedelta, limit: int, traceparent: str) -> int:
        """_REQUEUE."""
        transaction = self._transaction
        await transaction.statement("requeue orphans")
        tables = await transaction.lock()
        before = transaction.now - older_than.total_seconds()
        orphans = [
            (key, fact)
            for key, fact in tables.facts.items()
            if fact.embedding_id is None and fact.time < before and key not in tables.outbox and key not in tables.dead
        ][:limit]
        for key, fact in orphans:
            transaction.touched.add(key)
            tables.outbox[key] = _fresh(Operation.UPSERT, fact.version, fact, transaction.now)
        return len(orphans)

    async def replay(self, keys: Sequence[UUID], *, traceparent: str) -> set[UUID]:
        """_REPLAY."""
        transaction = self._transaction
        await transaction.statement("replay", [str(key)[:8] for key in keys])
        tables = await transaction.lock()
        for key in dict.fromkeys(keys):
            dead = tables.dead.pop(key, None)
            if dead is None:
                continue
            transaction.touched.add(key)
            fact = tables.facts.get(key)
            if key not in tables.outbox:
                operation = Operation.UPSERT if fact else Operation.DELETE
                version = transaction.database.nextval()
                if fact is not None:
                    tables.facts[key] = fact._replace(version=version, embedding_id=None, embedding_epoch=None)
                tables.outbox[key] = _fresh(operation, version, fact or dead, transaction.now)
        return {key for key in keys if key in tables.outbox}

    async def _free(self, answered: Sequence[tuple[UUID, int, UUID]]) -> None:
        """_FREE: where a newer intent has come in the meantime, the lease is given back for it."""
        transaction = self._transaction
        await transaction.statement("free newer")
        tables = await transaction.lock()
        for key, version, token in answered:
            row = tables.outbox.get(key)
            if row is not None and row.version > version and self._holds(row, token):
                tables.outbox[key] = row._replace(owner=None, due=transaction.now)
                transaction.notes.append(("returned", (key, token)))

    def _holds(self, row: OutboxRow, token: UUID) -> bool:
        return row.token == token or not self._world.on("lease.token")

    def _states(self, intent: Intent) -> bool:
        row = self._transaction.tables.outbox.get(intent.key)
        return row is not None and row.version == intent.version and self._holds(row, intent.lease_token)


def _fresh(operation: Operation, version: int, of: FactRow | DeadRow, now: float) -> OutboxRow:
    return OutboxRow(int(operation), version, of.project_id, of.source_id, now, 0, None, None, version)


def _intent(key: UUID, row: OutboxRow) -> Intent:
    assert row.token is not None
    return Intent(
        topic=Topic.FACT,
        key=key,
        operation=Operation(row.operation),
        version=row.version,
        project_id=row.project_id,
        source_id=row.source_id,
        attempts=row.attempts,
        lease_token=row.token,
        traceparent="",
        marker=row.since is None,
    )


def _content(fact: FactRow) -> FactContent:
    return FactContent(
        statement=fact.statement,
        group="",
        category="",
        values=(),
        quote="",
        start=0,
        end=0,
        context_before="",
        context_after="",
        entities=(),
        confidence=0.0,
        source_title="",
        source_uri="",
        source_group="",
        source_version=0,
        extract_time=_TIME,
    )
