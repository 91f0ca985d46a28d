"""Older copies of the engines' data, and how an operator puts them in place."""

import asyncio
import shutil
from contextlib import suppress
from pathlib import Path

import asyncpg

from deploy.local.postgres import SUPERUSER, Postgres

RECOVERY = """
restore_command = 'false'
recovery_target = 'immediate'
recovery_target_action = 'promote'
"""
# Said in full: the settings of an earlier recovery stay in the cluster.
STANDBY = """
restore_command = 'false'
recovery_target = ''
"""


async def base_copy(cluster: Postgres, target: Path) -> None:
    """Of a cluster that goes on running: the low-level base backup of PostgreSQL's manual."""
    connection = await asyncpg.connect(cluster.url(role=SUPERUSER, database="postgres"), timeout=10)
    try:
        await connection.execute("SELECT pg_backup_start('chaos', true)", timeout=60)
        await asyncio.to_thread(_copy, cluster.data, target, "pg_wal", "postmaster.pid", "pgsql_tmp*")
        label = await connection.fetchval("SELECT labelfile FROM pg_backup_stop(false)", timeout=60)
        await asyncio.to_thread(_copy, cluster.data / "pg_wal", target / "pg_wal")
    finally:
        await connection.close(timeout=10)
    (target / "backup_label").write_text(label)


def cold_copy(data: Path, target: Path) -> None:
    """Of an engine that is stopped."""
    shutil.copytree(data, target)


def recover(cluster: Postgres, copy: Path) -> None:
    """Puts a base copy in place of the data of a stopped cluster, to be recovered when it starts."""
    _put_in_place(cluster, copy, signal="recovery.signal", settings=RECOVERY)


def become_standby(cluster: Postgres, copy: Path) -> None:
    """As `recover`, but it starts as a standby that has heard nothing since the copy, until it is promoted."""
    _put_in_place(cluster, copy, signal="standby.signal", settings=STANDBY)


async def promote(cluster: Postgres) -> None:
    connection = await asyncpg.connect(cluster.url(role=SUPERUSER, database="postgres"), timeout=10)
    try:
        assert await connection.fetchval("SELECT pg_promote()", timeout=60)
    finally:
        await connection.close(timeout=10)


def _put_in_place(cluster: Postgres, copy: Path, *, signal: str, settings: str) -> None:
    replace_by(cluster.data, copy)
    (cluster.data / signal).touch()
    with (cluster.data / "postgresql.auto.conf").open("a") as file:
        file.write(settings)


def replace_by(data: Path, copy: Path) -> None:
    shutil.rmtree(data)
    copy.rename(data)


def _copy(source: Path, target: Path, *ignored: str) -> None:
    shutil.copytree(source, target, ignore=shutil.ignore_patterns(*ignored), copy_function=_copy_if_there)


def _copy_if_there(source: str, target: str) -> None:
    """Files of a running server may go while they are copied; recovery does without them."""
    with suppress(FileNotFoundError):
        shutil.copy2(source, target)
