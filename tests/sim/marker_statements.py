"""The statements of `adapters/postgres/markers.py`."""

from datetime import timedelta
from uuid import UUID

from services.extractor.domain.outbox import Operation
from tests.sim.database import MarkerRow, OutboxRow, Tables, Transaction
from tests.sim.doubt_statements import in_doubt


class MarkerStatements:
    def __init__(self, transaction: Transaction) -> None:
        self._transaction = transaction
        self._world = transaction.world

    async def issue(self, project_id: UUID, *, marker: UUID) -> int:
        """_ISSUE."""
        transaction = self._transaction
        await transaction.statement("issue token")
        tables = await transaction.lock()
        held = tables.markers.get(project_id)
        issued = transaction.database.nextval()
        tables.markers[project_id] = held._replace(issued=issued) if held else MarkerRow(marker, issued, 0)
        return issued

    async def release(self, *, settle: timedelta) -> bool:
        """_BEHIND and _RELEASE."""
        transaction = self._transaction
        if in_doubt(self._world, transaction.tables, settle=settle) or not any(
            row.resend or row.sent < row.issued for row in transaction.tables.markers.values()
        ):
            return False
        await transaction.statement("release markers")
        tables = await transaction.lock()
        waits = False
        for project_id, row in tables.markers.items():
            watermark = self._watermark(tables, project_id, row)
            waits |= watermark < row.issued
            if watermark >= row.sent + (0 if row.resend else 1):
                tables.markers[project_id] = row._replace(sent=watermark, resend=False)
                self._send(tables, project_id, row.marker, watermark)
        return waits

    def _watermark(self, tables: Tables, project_id: UUID, row: MarkerRow) -> int:
        """The version up to which nothing of the project waits."""
        if not self._world.on("token.watermark"):
            return row.issued
        waiting = [
            (each.since if self._world.on("token.since") else each.version) - 1
            for each in tables.outbox.values()
            if each.project_id == project_id and each.since is not None
        ]
        return min([row.issued, *waiting])

    def _send(self, tables: Tables, project_id: UUID, marker: UUID, watermark: int) -> None:
        now, held = self._transaction.now, tables.outbox.get(marker)
        if held is None:
            tables.outbox[marker] = OutboxRow(
                int(Operation.DELETE), watermark, project_id, project_id, now, 0, None, None, None
            )
            return
        due = held.due if held.owner is not None else now
        tables.outbox[marker] = held._replace(version=max(held.version, watermark), due=due)
