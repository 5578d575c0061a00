"""Runs migrations in one transaction, one runner at a time, on the database of the settings.

`tollgate.store.migrate` hands over its connection; the `alembic` command makes its own.
"""

from __future__ import annotations

import asyncio
from typing import Literal

import sqlalchemy as sa
from alembic import context

from tollgate import settings
from tollgate.store.database import Database
from tollgate.store.schema import Instant, metadata

ADVISORY_LOCK = 7_465_217_001
"""Two gateways that start together migrate one after the other (PostgreSQL; SQLite's BEGIN IMMEDIATE does it there)."""


def render_item(kind: str, item: object, _context: object) -> str | Literal[False]:
    """Migrations do not import the code they outlive: an Instant is written as what it is in SQL."""
    return "sa.DateTime(timezone=True)" if kind == "type" and isinstance(item, Instant) else False


def migrate(connection: sa.Connection) -> None:
    if connection.dialect.name == "postgresql":
        # However long the runner before takes. Then: a migration waits for running statements briefly,
        # and never makes a queue behind itself.
        connection.execute(sa.text("SET LOCAL statement_timeout = 0"))
        connection.execute(sa.text("SELECT pg_advisory_xact_lock(:key)"), {"key": ADVISORY_LOCK})
        connection.execute(sa.text("SET LOCAL lock_timeout = '10s'"))
    context.configure(
        connection=connection,
        target_metadata=metadata,
        transactional_ddl=True,
        compare_server_default=True,
        render_item=render_item,
    )
    with context.begin_transaction():
        context.run_migrations()


async def connect_and_migrate() -> None:
    database = Database.connect(settings.load().store_url, pool=1, command_timeout_s=None)
    try:
        async with database.write() as connection:
            await connection.run_sync(migrate)
    finally:
        await database.close()


if context.is_offline_mode():
    raise SystemExit("migrations read what they change: run them on the database, without --sql")
if (given := context.config.attributes.get("connection")) is not None:
    migrate(given)
else:
    asyncio.run(connect_and_migrate())
