"""Migrations of one service in its own schema, run by several replicas at once."""

import asyncio
from pathlib import Path

import asyncpg
import pytest

from services.shared.checks import CheckFailed
from services.shared.database.migrations import migrations_check, pending, upgrade
from services.shared.service import Migrations

REVISION = """
from alembic import op

revision = "{revision}"
down_revision = {previous!r}


def upgrade() -> None:
    op.execute("{statement}")
"""


class Package:
    """A package with migrations, growing as a service does."""

    def __init__(self, root: Path, name: str) -> None:
        self.name = name
        self._versions = root / name / "versions"
        self._versions.mkdir(parents=True)
        (root / name / "__init__.py").touch()
        self._last: str | None = None

    def add(self, revision: str, statement: str) -> None:
        body = REVISION.format(revision=revision, previous=self._last, statement=statement)
        (self._versions / f"{revision}.py").write_text(body)
        self._last = revision

    def at(self, url: str) -> Migrations:
        return Migrations(package=self.name, schema="greeter", url=url)


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Package:
    monkeypatch.syspath_prepend(str(tmp_path))
    package = Package(tmp_path, f"migrations_{tmp_path.name}")
    package.add("0001_pre_people", "CREATE TABLE greeter.people (id int PRIMARY KEY)")
    package.add("0002_pre_names", "ALTER TABLE greeter.people ADD COLUMN name text")
    return package


async def fetch(url: str, query: str) -> list[str]:
    connection = await asyncpg.connect(url)
    rows = await connection.fetch(query)
    await connection.close()
    return [str(row[0]) for row in rows]


async def test_upgrade_applies_all_in_order_into_its_own_schema(package: Package, postgres_url: str):
    assert await pending(package.at(postgres_url)) == ["0001_pre_people", "0002_pre_names"]

    assert await upgrade(package.at(postgres_url)) == ["0001_pre_people", "0002_pre_names"]

    assert await pending(package.at(postgres_url)) == []
    assert await fetch(postgres_url, "SELECT version_num FROM greeter.alembic_version") == ["0002_pre_names"]
    tables = "SELECT table_schema FROM information_schema.tables WHERE table_name IN ('people', 'alembic_version')"
    assert set(await fetch(postgres_url, tables)) == {"greeter"}


async def test_replicas_that_migrate_at_once_apply_each_revision_once(package: Package, postgres_url: str):
    results = await asyncio.gather(*(upgrade(package.at(postgres_url)) for _ in range(4)))

    assert sorted(len(applied) for applied in results) == [0, 0, 0, 2]


async def test_failed_revision_leaves_the_earlier_ones_and_can_be_repeated(package: Package, postgres_url: str):
    package.add("0003_pre_broken", "ALTER TABLE greeter.no_such_table ADD COLUMN x int")
    with pytest.raises(Exception, match="no_such_table"):
        await upgrade(package.at(postgres_url))

    assert await pending(package.at(postgres_url)) == ["0003_pre_broken"]


async def test_check_names_what_is_pending(package: Package, postgres_url: str):
    with pytest.raises(CheckFailed, match="0001_pre_people, 0002_pre_names; run migrate"):
        await migrations_check(package.at(postgres_url)).run()

    await upgrade(package.at(postgres_url))
    await migrations_check(package.at(postgres_url)).run()


async def test_older_release_runs_beside_a_newer_schema(package: Package, postgres_url: str, tmp_path: Path):
    package.add("0003_post_later", "ALTER TABLE greeter.people ADD COLUMN later text")
    await upgrade(package.at(postgres_url))
    (tmp_path / package.name / "versions" / "0003_post_later.py").unlink()

    assert await pending(package.at(postgres_url)) == []
    assert await upgrade(package.at(postgres_url)) == []
