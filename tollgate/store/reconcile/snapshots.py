"""All reads of a reconciliation at one moment, so that running traffic never shows as a difference."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

from tollgate.store.database import ReadConnection, dialect_of

POSTGRES = (
    "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY",
    "SET LOCAL statement_timeout = 0",
    # The sums of a year's hours fit; what does not goes to disk.
    "SET LOCAL work_mem = '64MB'",
)
"""A read-only transaction may still fill temporary tables (PostgreSQL manual, SET TRANSACTION)."""


@contextlib.asynccontextmanager
async def snapshot(connection: ReadConnection) -> AsyncIterator[None]:
    """A transaction in which the database stands still for `connection`. It hinders no writer, but while it lasts
    PostgreSQL's vacuum keeps dead rows, and SQLite's write-ahead log grows."""
    async with connection.begin():
        # On SQLite the deferred transaction that the first read opens is one already.
        for statement in POSTGRES if dialect_of(connection) == "postgresql" else ():
            await connection.exec_driver_sql(statement)
        yield
