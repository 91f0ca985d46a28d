"""The fragments of `adapters/postgres/doubts.py`: when the last doubt arose, and which comparison ends it."""

from collections.abc import Iterator
from datetime import timedelta
from math import isfinite

from services.extractor.domain.reconciliation import RunState
from tests.sim.database import Tables
from tests.sim.world import START, World


def compared(tables: Tables) -> Iterator[float]:
    """COMPARED: when each comparison began that has ended well."""
    for row in tables.runs.values():
        if row.run.state is RunState.DONE and not row.run.dry_run:
            yield (row.run.start_time - START).total_seconds()


def doubt_time(tables: Tables) -> float:
    """DOUBT_TIME."""
    return max(tables.noticed, tables.suspected)


def settled_time(world: World, tables: Tables, *, settle: timedelta) -> float:
    """SETTLED_TIME."""
    return doubt_time(tables) + (settle.total_seconds() if world.on("compare.settles") else 0.0)


def in_doubt(world: World, tables: Tables, *, settle: timedelta) -> bool:
    """IN_DOUBT."""
    settled = settled_time(world, tables, settle=settle)
    return isfinite(settled) and all(began < settled for began in compared(tables))
