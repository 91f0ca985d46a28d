"""Facts in PostgreSQL. Every statement that changes what the index should hold writes the intent itself.

Versions come from one sequence and are drawn under the lock of the fact's source, so
they grow per fact, over deletion and return too.
"""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

import orjson
from sqlalchemy import text

from services.extractor.domain.facts import Fact, Mention
from services.extractor.domain.outbox import IndexedFact, KeptVector, Operation
from services.shared.database.unit_of_work import Transaction

# Turns the rows of `changes` (key, operation, version, project_id, source_id) into intents. A newer intent takes the
# place of one that waits; one that is under way keeps its lease, so that a fact has one intent in flight at a time.
_INTENTS = f"""
intents AS (
    INSERT INTO extractor.outbox AS o (topic, key, operation, version, since, project_id, source_id, traceparent)
    SELECT 'fact', c.key, c.operation, c.version, c.version, c.project_id, c.source_id, :traceparent FROM changes c
    ON CONFLICT (topic, key) DO UPDATE
       SET operation = EXCLUDED.operation, version = EXCLUDED.version, traceparent = EXCLUDED.traceparent,
           create_time = now(), attempts = 0,
           due_time = CASE WHEN o.lease_owner IS NULL THEN now() ELSE o.due_time END
    RETURNING o.key
), outlived AS (
    DELETE FROM extractor.dead_letters d USING changes c WHERE d.topic = 'fact' AND d.key = c.key
)
SELECT count(*) FILTER (WHERE operation = {Operation.UPSERT:d}) AS upserted,
       count(*) FILTER (WHERE operation = {Operation.DELETE:d}) AS deleted
  FROM changes
"""

# A changed fact draws its version anew under the lock of its row: whoever held that may have drawn a later one than
# the one proposed for the insert.
_REPLACE = text(f"""
WITH incoming AS MATERIALIZED (
    SELECT * FROM unnest(
        CAST(:fact_ids AS uuid[]), CAST(:groups AS text[]), CAST(:item_keys AS text[]), CAST(:statements AS text[]),
        CAST(:categories AS text[]), CAST(:field_values AS jsonb[]), CAST(:quotes AS text[]),
        CAST(:starts AS integer[]), CAST(:ends AS integer[]), CAST(:befores AS text[]), CAST(:afters AS text[]),
        CAST(:entities AS jsonb[]), CAST(:confidences AS double precision[]), CAST(:models AS text[]),
        CAST(:chunk_indexes AS integer[]), CAST(:hashes AS bytea[])
    ) AS i (fact_id, group_name, item_key, statement, category, field_values, quote, start_offset, end_offset,
            context_before, context_after, entities, confidence, model, chunk_index, content_hash)
), written AS (
    INSERT INTO extractor.extractions AS e
        (extraction_id, project_id, source_id, group_name, item_key, statement, category, field_values, quote,
         start_offset, end_offset, context_before, context_after, entities, confidence, model, chunk_index,
         content_hash, version)
    SELECT i.fact_id, CAST(:project_id AS uuid), CAST(:source_id AS uuid), i.group_name, i.item_key, i.statement,
           i.category, i.field_values, i.quote, i.start_offset, i.end_offset, i.context_before, i.context_after,
           ARRAY(SELECT jsonb_array_elements_text(i.entities)), i.confidence, i.model, i.chunk_index, i.content_hash,
           nextval('extractor.fact_versions')
      FROM incoming i
    ON CONFLICT (extraction_id) DO UPDATE
       SET statement = EXCLUDED.statement, category = EXCLUDED.category, field_values = EXCLUDED.field_values,
           quote = EXCLUDED.quote, start_offset = EXCLUDED.start_offset, end_offset = EXCLUDED.end_offset,
           context_before = EXCLUDED.context_before, context_after = EXCLUDED.context_after,
           entities = EXCLUDED.entities, confidence = EXCLUDED.confidence, model = EXCLUDED.model,
           chunk_index = EXCLUDED.chunk_index, content_hash = EXCLUDED.content_hash,
           version = nextval('extractor.fact_versions'), embedding_id = NULL, embedding_epoch = NULL,
           extract_time = now()
     WHERE e.content_hash <> EXCLUDED.content_hash OR e.chunk_index <> EXCLUDED.chunk_index
    RETURNING e.extraction_id, e.version, e.project_id, e.source_id
), gone AS (
    DELETE FROM extractor.extractions e
     WHERE e.source_id = :source_id AND NOT EXISTS (SELECT FROM incoming i WHERE i.fact_id = e.extraction_id)
    RETURNING e.extraction_id, e.project_id, e.source_id
), changes AS MATERIALIZED (
    SELECT extraction_id AS key, {Operation.UPSERT:d} AS operation, version, project_id, source_id FROM written
     UNION ALL
    SELECT extraction_id, {Operation.DELETE:d}, nextval('extractor.fact_versions'), project_id, source_id FROM gone
), {_INTENTS}
""")

_DELETE = text(f"""
WITH gone AS (
    DELETE FROM extractor.extractions e WHERE e.source_id = ANY(CAST(:source_ids AS uuid[]))
    RETURNING e.extraction_id, e.project_id, e.source_id
), changes AS MATERIALIZED (
    SELECT extraction_id AS key, {Operation.DELETE:d} AS operation, nextval('extractor.fact_versions') AS version,
           project_id, source_id
      FROM gone
), {_INTENTS}
""")

# Statements whose work grows with the facts of a document or a project get more time than others.
_PATIENCE = text("SELECT set_config('statement_timeout', '600s', true)")

_IDS = text("SELECT extraction_id FROM extractor.extractions WHERE source_id = :source_id ORDER BY extraction_id")

# One statement: the embedding id is recorded when the intent leaves the outbox. Where a newer intent has come in the
# meantime, both guards miss. The lease is part of them because a version is not enough: after a restore the same
# number may be issued again, for something else. Facts are locked before their intents, as everywhere.
_ACKNOWLEDGE = text("""
WITH acks AS MATERIALIZED (
    SELECT * FROM unnest(
        CAST(:fact_ids AS uuid[]), CAST(:versions AS bigint[]), CAST(:embedding_ids AS uuid[]),
        CAST(:epochs AS bigint[]), CAST(:lease_tokens AS uuid[])
    ) AS a (fact_id, version, embedding_id, epoch, lease_token)
), indexed AS (
    UPDATE extractor.extractions e SET embedding_id = a.embedding_id, embedding_epoch = a.epoch
      FROM acks a JOIN extractor.outbox o
        ON o.topic = 'fact' AND o.key = a.fact_id AND o.version = a.version AND o.lease_token = a.lease_token
     WHERE e.extraction_id = a.fact_id AND e.version = a.version AND a.embedding_id IS NOT NULL
    RETURNING e.extraction_id
), settled AS (
    DELETE FROM extractor.outbox o USING acks a
     WHERE o.topic = 'fact' AND o.key = a.fact_id AND o.version = a.version AND o.lease_token = a.lease_token
    RETURNING o.key
)
SELECT extraction_id AS fact_id, true AS indexed FROM indexed
 UNION ALL
SELECT key, false FROM settled
""")

# Gives the lease back for the newer intent. A statement of its own, because it must see what came while the one
# before waited for locks.
_FREE = text("""
UPDATE extractor.outbox o SET lease_owner = NULL, due_time = now()
  FROM unnest(CAST(:fact_ids AS uuid[]), CAST(:versions AS bigint[]), CAST(:lease_tokens AS uuid[]))
       AS a (fact_id, version, lease_token)
 WHERE o.topic = 'fact' AND o.key = a.fact_id AND o.version > a.version AND o.lease_token = a.lease_token
""")

_KEEP_VECTORS = text("""
INSERT INTO extractor.fact_vectors (extraction_id, model, statement_hash, vector)
SELECT * FROM unnest(CAST(:fact_ids AS uuid[]), CAST(:models AS text[]), CAST(:hashes AS bytea[]),
                     CAST(:vectors AS bytea[]))
ON CONFLICT (extraction_id, model) DO UPDATE
   SET statement_hash = EXCLUDED.statement_hash, vector = EXCLUDED.vector
""")

_VECTORS = text("""
SELECT extraction_id, model, statement_hash, vector FROM extractor.fact_vectors
 WHERE extraction_id = ANY(CAST(:fact_ids AS uuid[]))
""")

_FORGET_VECTORS = text("DELETE FROM extractor.fact_vectors WHERE extraction_id = ANY(CAST(:fact_ids AS uuid[]))")

_REPLACE_MENTIONS = text("""
WITH incoming AS MATERIALIZED (
    SELECT * FROM unnest(CAST(:entity_ids AS uuid[]), CAST(:types AS text[]), CAST(:names AS text[]),
                         CAST(:counts AS integer[])) AS i (entity_id, type, name, mention_count)
), gone AS (
    DELETE FROM extractor.entity_mentions m
     WHERE m.source_id = :source_id
       AND NOT EXISTS (SELECT FROM incoming i WHERE i.entity_id = m.entity_id AND i.name = m.name)
)
INSERT INTO extractor.entity_mentions AS m (source_id, entity_id, name, project_id, type, mention_count)
SELECT CAST(:source_id AS uuid), i.entity_id, i.name, CAST(:project_id AS uuid), i.type, i.mention_count FROM incoming i
ON CONFLICT (source_id, entity_id, name) DO UPDATE SET mention_count = EXCLUDED.mention_count
 WHERE m.mention_count <> EXCLUDED.mention_count
""")

_REPLACE_LINKS = text("""
WITH incoming AS MATERIALIZED (
    SELECT * FROM unnest(CAST(:fact_ids AS uuid[]), CAST(:entity_ids AS uuid[])) AS i (fact_id, entity_id)
), gone AS (
    DELETE FROM extractor.entity_links l USING extractor.extractions e
     WHERE e.source_id = :source_id AND l.extraction_id = e.extraction_id
       AND NOT EXISTS (SELECT FROM incoming i WHERE i.fact_id = l.extraction_id AND i.entity_id = l.entity_id)
)
INSERT INTO extractor.entity_links (extraction_id, entity_id, project_id)
SELECT i.fact_id, i.entity_id, CAST(:project_id AS uuid) FROM incoming i
ON CONFLICT DO NOTHING
""")


class PostgresFacts:
    def __init__(self, transaction: Transaction) -> None:
        self._transaction = transaction

    async def replace(
        self, project_id: UUID, source_id: UUID, facts: Sequence[Fact], *, traceparent: str
    ) -> tuple[int, int]:
        """Makes `facts` the facts of a locked source. Returns how many were written and how many deleted.

        A fact that says the same as before is left as it is.
        """
        await self._transaction.execute(_PATIENCE)
        result = await self._transaction.execute(
            _REPLACE,
            {"project_id": project_id, "source_id": source_id, "traceparent": traceparent, **_columns(facts)},
        )
        counts = result.one()
        return counts.upserted, counts.deleted

    async def delete(self, source_ids: Sequence[UUID], *, traceparent: str) -> int:
        """Deletes all facts of locked sources and leaves a tombstone of each in the outbox. Returns how many."""
        parameters = {"source_ids": list(source_ids), "traceparent": traceparent}
        await self._transaction.execute(_PATIENCE)
        return (await self._transaction.execute(_DELETE, parameters)).one().deleted

    async def ids(self, source_id: UUID) -> list[UUID]:
        """Of all facts of a source, sorted."""
        return list((await self._transaction.execute(_IDS, {"source_id": source_id})).scalars())

    async def update_embedding_id(self, indexed: IndexedFact) -> bool:
        """As the batch; says whether the fact has this version and now has the embedding id."""
        return bool(await self.update_embedding_ids_batch([indexed]))

    async def update_embedding_ids_batch(self, indexed: Sequence[IndexedFact]) -> set[UUID]:
        """Records what the index has acknowledged, in one statement, and takes those intents out of the outbox.

        An acknowledgement of another version than the present one, or under a lease that has passed on, changes
        nothing and keeps no vector. Returns the facts that now have their embedding id; a batch that is empty asks
        nothing.
        """
        if not indexed:
            return set()
        acknowledged = {
            "fact_ids": [each.fact_id for each in indexed],
            "versions": [each.version for each in indexed],
            "lease_tokens": [each.lease_token for each in indexed],
        }
        result = await self._transaction.execute(
            _ACKNOWLEDGE,
            {
                **acknowledged,
                "embedding_ids": [each.embedding_id for each in indexed],
                "epochs": [each.epoch for each in indexed],
            },
        )
        rows = result.all()
        recorded = {row.fact_id for row in rows if row.indexed}
        if len(rows) - len(recorded) < len(indexed):
            await self._transaction.execute(_FREE, acknowledged)
        await self._keep([vector for each in indexed if each.fact_id in recorded for vector in each.vectors])
        return recorded

    async def vectors(self, fact_ids: Sequence[UUID]) -> list[KeptVector]:
        """All that are kept of these facts, those of earlier statements too."""
        result = await self._transaction.execute(_VECTORS, {"fact_ids": list(fact_ids)})
        return [
            KeptVector(fact_id=row.extraction_id, model=row.model, statement_hash=row.statement_hash, values=row.vector)
            for row in result
        ]

    async def forget_vectors(self, fact_ids: Sequence[UUID]) -> None:
        await self._transaction.execute(_FORGET_VECTORS, {"fact_ids": list(fact_ids)})

    async def _keep(self, vectors: Sequence[KeptVector]) -> None:
        if not vectors:
            return
        await self._transaction.execute(
            _KEEP_VECTORS,
            {
                "fact_ids": [vector.fact_id for vector in vectors],
                "models": [vector.model for vector in vectors],
                "hashes": [vector.statement_hash for vector in vectors],
                "vectors": [vector.values for vector in vectors],
            },
        )

    async def replace_entities(
        self, project_id: UUID, source_id: UUID, mentions: Sequence[Mention], facts: Sequence[Fact]
    ) -> None:
        """Makes these the entities that a locked source names, and links its facts to them."""
        source = {"project_id": project_id, "source_id": source_id}
        await self._transaction.execute(
            _REPLACE_MENTIONS,
            {
                **source,
                "entity_ids": [mention.entity_id for mention in mentions],
                "types": [mention.type for mention in mentions],
                "names": [mention.name for mention in mentions],
                "counts": [mention.count for mention in mentions],
            },
        )
        links = [(fact.fact_id, entity_id) for fact in facts for entity_id in fact.entity_ids]
        await self._transaction.execute(
            _REPLACE_LINKS,
            {
                **source,
                "fact_ids": [fact_id for fact_id, _ in links],
                "entity_ids": [entity_id for _, entity_id in links],
            },
        )


def _columns(facts: Sequence[Fact]) -> dict[str, list[Any]]:
    return {
        "fact_ids": [fact.fact_id for fact in facts],
        "groups": [fact.group for fact in facts],
        "item_keys": [fact.item_key for fact in facts],
        "statements": [fact.statement for fact in facts],
        "categories": [fact.category for fact in facts],
        "field_values": [orjson.dumps(fact.values).decode() for fact in facts],
        "quotes": [fact.quote for fact in facts],
        "starts": [fact.start for fact in facts],
        "ends": [fact.end for fact in facts],
        "befores": [fact.context_before for fact in facts],
        "afters": [fact.context_after for fact in facts],
        "entities": [orjson.dumps(fact.entities).decode() for fact in facts],
        "confidences": [fact.confidence for fact in facts],
        "models": [fact.model for fact in facts],
        "chunk_indexes": [fact.chunk_index for fact in facts],
        "hashes": [fact.content_hash for fact in facts],
    }
