"""PostgreSQL databases for tests: clones of a migrated one, each emptied after a test and given to the next.

A clone copies 9 MB and a drop removes it: 0.15 s of the server's CPU for each test, against 5 ms for deleting the few
rows that a test wrote. A database is used again only if it is as it was made but for rows: one whose catalogue was
written to (a table altered, a trigger added, statistics gathered), or that has grown, is dropped.
"""

from __future__ import annotations

import asyncio
import threading
import uuid
from collections.abc import Coroutine
from typing import Any, TypeVar

import asyncpg
import sqlalchemy as sa

from tollgate.store import migrate
from tollgate.store.database import Database
from tollgate.store.schema import metadata

T = TypeVar("T")
CONNECT_S = 30.0
END_MS = 10_000
"""Limit for ending the connections that a test left open."""
GROWN_BYTES = 4 * 2**20
"""Of tables and indexes, the dead rows of earlier tests with them: a clone is cheaper then."""
CATALOGUES = {
    "pg_class": "oid",
    "pg_attribute": "attrelid",
    "pg_attrdef": "adrelid",
    "pg_constraint": "oid",
    "pg_trigger": "oid",
    "pg_type": "oid",
    "pg_proc": "oid",
    "pg_statistic": "starelid",
}
"""And the column that tells whose object a row is of."""
# A row that is written has its transaction's number in `xmin`; what vacuum counts is changed in place.
WRITTEN = " UNION ALL ".join(
    [
        f"SELECT '{name}' AS part, count(*) AS rows, max(xmin::text::bigint) AS last FROM {name} WHERE {of} >= 16384"
        for name, of in CATALOGUES.items()
    ]
    + ["SELECT 'revision', count(*), max(xmin::text::bigint) FROM alembic_version"]
)
"""What is not PostgreSQL's own, whose objects have lower numbers (FirstNormalObjectId)."""
SIZE = "SELECT sum(pg_relation_size(oid))::bigint FROM pg_class WHERE oid >= 16384"
END_OTHERS = (
    f"SELECT pg_terminate_backend(pid, {END_MS}) FROM pg_stat_activity"
    " WHERE datname = current_database() AND backend_type = 'client backend' AND pid <> pg_backend_pid()"
)
EMPTY = ";".join(f'DELETE FROM "{table.name}"' for table in reversed(metadata.sorted_tables))
"""In one transaction, as asyncpg sends it."""


def named(server: str, name: str) -> str:
    """The URL of the database `name` on `server`."""
    return sa.make_url(server).set(database=name).render_as_string(hide_password=False)


def new_name() -> str:
    return f"tollgate_test_{uuid.uuid4().hex[:12]}"


class Loop:
    """An event loop in a thread of its own, for synchronous fixtures: the test may have a loop already."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


async def on_server(server: str, *statements: str) -> None:
    """Each outside a transaction."""
    connection = await asyncpg.connect(server, timeout=CONNECT_S)
    try:
        for statement in statements:
            await connection.execute(statement)
    finally:
        await connection.close()


async def migrated(url: str) -> None:
    """Bring the database at `url` to the schema of this code."""
    database = Database.connect(url)
    try:
        await migrate.upgrade(database)
    finally:
        await database.close()


class Databases:
    """Those of one session, each with a connection that stays for emptying it. All are dropped at the session's end."""

    def __init__(self, server: str, loop: Loop) -> None:
        self._server, self._loop = server, loop
        self._template = new_name()
        self._as_made: list[asyncpg.Record] = []
        self._most_bytes = 0
        self._open: dict[str, asyncpg.Connection[asyncpg.Record]] = {}
        self._spare: list[str] = []

    def make(self) -> None:
        """The template."""
        self._loop.run(self._make())

    def remove(self) -> None:
        """All of them."""
        self._loop.run(self._remove())

    def take(self, *, new: bool = False) -> str:
        """The URL of a migrated database without a row; `new`: nor with a page or a statistic of another test."""
        name = self._spare.pop() if self._spare and not new else self._loop.run(self._clone())
        return named(self._server, name)

    def give_back(self, url: str) -> None:
        """The test that took it has ended, and whoever is still connected is cut off."""
        self._loop.run(self._give_back(str(sa.make_url(url).database)))

    async def _make(self) -> None:
        await on_server(self._server, f"CREATE DATABASE {self._template}")
        await migrated(named(self._server, self._template))
        connection = await asyncpg.connect(named(self._server, self._template), timeout=CONNECT_S)
        self._as_made = await connection.fetch(WRITTEN)
        self._most_bytes = GROWN_BYTES + await connection.fetchval(SIZE)
        await connection.close()

    async def _clone(self) -> str:
        name = new_name()
        # Nothing here stops the server, and only that would show whether commits were on the disk.
        without_fsync = f"ALTER DATABASE {name} SET synchronous_commit = off"
        await on_server(self._server, f"CREATE DATABASE {name} TEMPLATE {self._template}", without_fsync)
        self._open[name] = await asyncpg.connect(named(self._server, name), timeout=CONNECT_S)
        return name

    async def _give_back(self, name: str) -> None:
        try:
            as_new = await self._empty(self._open[name])
        except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
            as_new = False  # the test ended this connection too, or left what cannot be deleted
        if as_new:
            self._spare.append(name)
        else:
            await self._drop(name)

    async def _empty(self, connection: asyncpg.Connection[asyncpg.Record]) -> bool:
        """Whether nothing is left of the test."""
        await connection.execute(END_OTHERS)
        if await connection.fetch(WRITTEN) != self._as_made or await connection.fetchval(SIZE) > self._most_bytes:
            return False
        await connection.execute(EMPTY)
        return True

    async def _drop(self, name: str) -> None:
        await self._open.pop(name).close()
        await on_server(self._server, f"DROP DATABASE {name} WITH (FORCE)")

    async def _remove(self) -> None:
        for name in list(self._open):
            await self._drop(name)
        await on_server(self._server, f"DROP DATABASE IF EXISTS {self._template} WITH (FORCE)")
