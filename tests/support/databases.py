"""A database of its own for each test, made within some 40 ms by copying a template."""

import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from urllib.parse import urlsplit, urlunsplit

import asyncpg

Migrate = Callable[[str], Awaitable[None]]


async def cut_connections(url: str) -> None:
    """Ends the connections of all other clients to the database of `url`, as a failover does.

    PostgreSQL's own workers in it, autovacuum's for one, are not for the owner to end.
    """
    connection = await asyncpg.connect(url, timeout=10)
    try:
        await connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE datname = current_database() AND backend_type = 'client backend' AND pid <> pg_backend_pid()"
        )
    finally:
        await connection.close(timeout=10)


@dataclass(slots=True, kw_only=True)
class Databases:
    """`templates` are made once and live as long as the session."""

    admin_url: str
    """Of a role that may create databases for the owner."""
    owner_url: str
    """Of the role that owns the databases and that tests connect as: as in production, it is no superuser."""
    templates: dict[str, str] = field(default_factory=dict)

    @asynccontextmanager
    async def fresh(self, *, template: str = "template0") -> AsyncIterator[str]:
        """Yields the URL of a new database and drops it afterwards, whoever is still connected."""
        name = f"test_{secrets.token_hex(6)}"
        await self._create(name, template=template)
        try:
            yield self._url(name)
        finally:
            await self._execute(f"DROP DATABASE {name} WITH (FORCE)")

    async def template(self, purpose: str, migrate: Migrate) -> str:
        """The name of a template that `migrate` has filled, which it does on the first call for this purpose."""
        if purpose not in self.templates:
            name = f"template_{purpose}_{secrets.token_hex(6)}"
            await self._create(name, template="template0")
            await migrate(self._url(name))
            self.templates[purpose] = name
        return self.templates[purpose]

    async def close(self) -> None:
        for name in self.templates.values():
            await self._execute(f"DROP DATABASE {name} WITH (FORCE)")

    def _url(self, database: str) -> str:
        return urlunsplit(urlsplit(self.owner_url)._replace(path=f"/{database}"))

    async def _create(self, name: str, *, template: str) -> None:
        owner = urlsplit(self.owner_url).username
        await self._execute(f"CREATE DATABASE {name} OWNER {owner} TEMPLATE {template} STRATEGY file_copy")

    async def _execute(self, statement: str) -> None:
        connection = await asyncpg.connect(self.admin_url, timeout=10)
        try:
            await connection.execute(statement, timeout=30)
        finally:
            await connection.close(timeout=10)
