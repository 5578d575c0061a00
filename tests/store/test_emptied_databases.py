"""What a test leaves in a PostgreSQL database never reaches the next one."""

from __future__ import annotations

import asyncpg
import pytest

from tests.databases import Databases, Loop, on_server
from tests.store import seeds
from tollgate.store.database import Database
from tollgate.store.schema import tasks


async def fill(url: str) -> None:
    database = Database.connect(url)
    try:
        key = await seeds.a_key(database)
        await seeds.queued(database, key, count=3)
    finally:
        await database.close()


async def count_tasks(url: str) -> int:
    database = Database.connect(url)
    try:
        return await seeds.size(database, tasks)
    finally:
        await database.close()


def test_it_is_given_again_without_a_row(postgres_databases: Databases, loop: Loop) -> None:
    url = postgres_databases.take()
    loop.run(fill(url))
    postgres_databases.give_back(url)
    again = postgres_databases.take()
    left = loop.run(count_tasks(again))
    postgres_databases.give_back(again)
    assert (again, left) == (url, 0)


@pytest.mark.parametrize(
    "change",
    [
        "ALTER TABLE tasks ADD COLUMN stray integer",
        "ALTER TABLE tasks SET (autovacuum_enabled = off)",
        "CREATE FUNCTION stray() RETURNS integer LANGUAGE sql AS 'SELECT 1'",
        "DROP INDEX ix_tasks_due",
        "UPDATE alembic_version SET version_num = '0001'",
        "INSERT INTO projects (id, name, created_at) SELECT gen_random_uuid(), 'p', now(); ANALYZE projects",
    ],
)
def test_one_in_which_more_than_rows_was_changed_is_not_given_again(
    postgres_databases: Databases, loop: Loop, change: str
) -> None:
    url = postgres_databases.take()
    loop.run(on_server(url, *change.split("; ")))
    postgres_databases.give_back(url)
    other = postgres_databases.take()
    postgres_databases.give_back(other)
    assert other != url


def test_who_is_still_in_a_transaction_is_cut_off(postgres_databases: Databases, loop: Loop) -> None:
    url = postgres_databases.take()

    async def stay() -> asyncpg.Connection[asyncpg.Record]:
        connection: asyncpg.Connection[asyncpg.Record] = await asyncpg.connect(url)
        await connection.execute("BEGIN; LOCK TABLE tasks")
        return connection

    staying = loop.run(stay())
    postgres_databases.give_back(url)
    with pytest.raises((asyncpg.PostgresError, asyncpg.InterfaceError, OSError)):
        loop.run(staying.execute("COMMIT"))
