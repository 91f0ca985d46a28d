"""The statements of `adapters/postgres/witnesses.py`."""

from collections.abc import Sequence

from services.extractor.domain.outbox import Witness
from tests.sim.database import Transaction


class WitnessStatements:
    def __init__(self, transaction: Transaction) -> None:
        self._transaction = transaction

    async def note(self, witness: Witness, *, owner: str) -> None:
        """_NOTE."""
        await self._transaction.statement("note witness")
        tables = await self._transaction.lock()
        tables.witnesses[round(self._transaction.now), owner] = witness

    async def all(self) -> list[Witness]:
        """_ALL."""
        await self._transaction.statement("witnesses")
        return [witness for _, witness in sorted(self._transaction.tables.witnesses.items(), key=lambda item: item[0])]

    async def release(self, seen: Sequence[Witness]) -> None:
        """_RELEASE."""
        await self._transaction.statement("release witnesses")
        tables = await self._transaction.lock()
        newest = max((second for second, _ in tables.witnesses), default=0)
        tables.witnesses = {
            key: witness for key, witness in tables.witnesses.items() if witness not in seen or key[0] == newest
        }

    async def disprove(self) -> None:
        """_DISPROVE, SUSPECT, _HOLD_MARKERS and _RESEND_MARKERS."""
        transaction = self._transaction
        await transaction.statement("disprove witnesses")
        tables = await transaction.lock()
        tables.witnesses.clear()
        tables.suspected = transaction.now
        for key in [key for key, row in tables.outbox.items() if row.since is None]:
            transaction.notes.append(("returned", (key, tables.outbox.pop(key).token)))
        tables.markers = {key: row._replace(resend=True) for key, row in tables.markers.items()}
