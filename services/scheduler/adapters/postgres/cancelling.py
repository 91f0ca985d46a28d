"""Cancels a job and its descendants within a transaction of the caller."""

from collections.abc import Sequence

from services.scheduler.adapters.postgres.dispatch import Dispatch
from services.scheduler.adapters.postgres.session import Connection, Row
from services.scheduler.adapters.postgres.settling import CANCEL
from services.scheduler.application.ports import Ended
from services.scheduler.domain.job import JobState

CHILDREN = """
SELECT job_id FROM scheduler.jobs WHERE parent_job_id = ANY($1::uuid[])
UNION ALL
SELECT job_id FROM scheduler.ended_jobs WHERE parent_job_id = ANY($1::uuid[])
"""


async def cancel_tree(
    connection: Connection, dispatch: Dispatch, job_ids: Sequence[str], *, message: str, descend: bool = True
) -> tuple[int, list[Ended]]:
    """Cancels jobs and their descendants, level by level.

    Each level is locked before its children are read, and a child is created under a
    lock of its parent, so that no child slips through between the two.
    """
    affected = 0
    ended: list[Ended] = []
    level: Sequence[object] = job_ids
    while level:
        settled = await connection.fetch(CANCEL, level, message, dispatch.replica_id, dispatch.ageing)
        affected += len(settled)
        ended += [_to_ended(record) for record in settled if record["next_state"] == JobState.CANCELLED]
        level = [record[0] for record in await connection.fetch(CHILDREN, level)] if descend else ()
    return affected, ended


def _to_ended(record: Row) -> Ended:
    return Ended(record["type"], JobState.CANCELLED, record["start_time"], record["now"])
