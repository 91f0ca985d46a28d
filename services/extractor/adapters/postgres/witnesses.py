"""Witnesses: facts that the index has acknowledged, to be asked for again.

Of each second and relay the last one is kept until it was seen. An index that goes back in
time loses what it acknowledged last before anything else, and what is acknowledged after
that falls into another second.
"""

from collections.abc import Sequence

from sqlalchemy import text

from services.extractor.adapters.postgres.doubts import SUSPECT
from services.extractor.domain.outbox import Witness
from services.shared.database.unit_of_work import Transaction

_NOTE = text("""
INSERT INTO extractor.witnesses AS w (owner, second, fact_id, version)
VALUES (:owner, CAST(extract(epoch FROM clock_timestamp()) AS bigint), :fact_id, :version)
ON CONFLICT (owner, second) DO UPDATE SET fact_id = EXCLUDED.fact_id, version = EXCLUDED.version
""")

_ALL = text("SELECT fact_id, version FROM extractor.witnesses ORDER BY second, owner")

# The newest stays: the index may go back in time while nothing is acknowledged.
_RELEASE = text("""
DELETE FROM extractor.witnesses w
 USING unnest(CAST(:fact_ids AS uuid[]), CAST(:versions AS bigint[])) AS seen (fact_id, version)
 WHERE w.fact_id = seen.fact_id AND w.version = seen.version
   AND w.second < (SELECT max(second) FROM extractor.witnesses)
""")

_DISPROVE = text("DELETE FROM extractor.witnesses")

# Markers that are on their way would speak for what is lost; all are sent again when everything is back.
_HOLD_MARKERS = text("DELETE FROM extractor.outbox WHERE topic = 'fact' AND since IS NULL")
_RESEND_MARKERS = text("UPDATE extractor.markers SET resend = true WHERE NOT resend")


class PostgresWitnesses:
    def __init__(self, transaction: Transaction) -> None:
        self._transaction = transaction

    async def note(self, witness: Witness, *, owner: str) -> None:
        """In place of the one of the same second."""
        parameters = {"owner": owner, "fact_id": witness.fact_id, "version": witness.version}
        await self._transaction.execute(_NOTE, parameters)

    async def all(self) -> list[Witness]:
        """Oldest first."""
        rows = await self._transaction.execute(_ALL)
        return [Witness(fact_id=row.fact_id, version=row.version) for row in rows]

    async def release(self, seen: Sequence[Witness]) -> None:
        """These were seen. The newest of all is kept nevertheless."""
        parameters = {"fact_ids": [each.fact_id for each in seen], "versions": [each.version for each in seen]}
        await self._transaction.execute(_RELEASE, parameters)

    async def disprove(self) -> None:
        """The index has lost what it acknowledged: a comparison is due, and until it has ended no marker goes out."""
        for statement in (_DISPROVE, SUSPECT, _HOLD_MARKERS, _RESEND_MARKERS):
            await self._transaction.execute(statement)
