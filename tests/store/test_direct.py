"""Statements by PostgreSQL's driver itself: what goes wrong there is told as everywhere, and nothing is lost by it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

import asyncpg
import pytest
import sqlalchemy as sa

from tests.store import seeds
from tests.store.test_database import closed_port
from tollgate.domain.errors import StoreUnavailableError
from tollgate.domain.ids import new_id
from tollgate.store import rows
from tollgate.store.database import Database
from tollgate.store.direct import Direct, Written
from tollgate.store.schema import projects

PROJECTS = rows.Given.of(projects, "id", "name", "created_at")
PID = Written("SELECT pg_backend_pid()", names=(), constants={})


def _inserting(dialect: str) -> rows.Statement:
    return PROJECTS.insert(dialect, projects).returning(projects.c.name)


def _named(dialect: str) -> rows.Statement:
    given = PROJECTS.table(dialect)
    return sa.select(projects.c.name).outerjoin(given, given.c.id == projects.c.id).order_by(projects.c.name)


async def insert(database: Database, name: object) -> Sequence[Any]:
    async with database.write_once() as connection:
        return await rows.fetch(connection, _inserting, PROJECTS, [(new_id(), name, seeds.NOW)])


async def names(database: Database) -> list[str]:
    async with database.read_once() as connection:
        return [name for (name,) in await rows.fetch(connection, _named, PROJECTS, [])]


async def fetch(database: Database, text: str) -> Sequence[Any]:
    async with database.read_once() as connection:
        assert isinstance(connection, Direct)
        return await connection.fetch(Written(text, names=(), constants={}), {})


@pytest.fixture
async def single(postgres_url: str) -> AsyncIterator[Database]:
    """One connection: what a statement leaves behind is the next one's."""
    database = Database.connect(postgres_url, pool=1)
    yield database
    await database.close()


async def test_a_statement_is_committed_by_itself(single: Database, postgres: Database) -> None:
    assert [tuple(row) for row in await insert(single, "a")] == [("a",)]
    assert await names(postgres) == ["a"]


async def test_one_that_fails_is_no_outage_and_leaves_nothing(single: Database) -> None:
    await insert(single, "a")
    with pytest.raises(asyncpg.UniqueViolationError):
        await insert(single, "a")
    for unstorable in ("half of a pair \ud800", "nul \0", "n" * 65, 2**70):
        with pytest.raises((asyncpg.PostgresError, asyncpg.InterfaceError, UnicodeEncodeError)):
            await insert(single, unstorable)
    with pytest.raises(asyncpg.UndefinedColumnError):
        await fetch(single, "SELECT no_such_column FROM projects")
    assert await names(single) == ["a"]


async def test_an_error_of_the_callers_own_is_not_an_outage(single: Database) -> None:
    async def fail() -> None:
        async with single.read_once():
            raise FileNotFoundError("not ours")

    with pytest.raises(FileNotFoundError):
        await fail()
    assert await names(single) == []


async def test_one_that_is_cancelled_ends_there_too_and_the_connection_is_of_use(single: Database) -> None:
    for _ in range(3):
        async with single.read_once() as connection:
            assert isinstance(connection, Direct)
            ((before,),) = await connection.fetch(PID, {})
        sleeping = asyncio.create_task(fetch(single, "SELECT pg_sleep(60)"))
        await asyncio.sleep(0.05)
        sleeping.cancel()
        await asyncio.wait([sleeping])
        assert sleeping.cancelled()
        async with asyncio.timeout(10):
            assert await names(single) == []
            async with single.write() as writing:
                after = (await writing.exec_driver_sql("SELECT pg_backend_pid()")).scalar_one()
        assert after == before


async def test_a_server_that_refuses_or_has_no_such_database_is_an_outage(postgres_server: str) -> None:
    absent = sa.make_url(postgres_server).set(database="tollgate_test_absent").render_as_string(hide_password=False)
    for url, why in (
        (f"postgresql://postgres@127.0.0.1:{closed_port()}/postgres", "does not answer"),
        (absent, "tollgate_test_absent"),
    ):
        database = Database.connect(url)
        try:
            async with asyncio.timeout(5):
                with pytest.raises(StoreUnavailableError, match=why):
                    await names(database)
        finally:
            await database.close()


async def test_a_connection_that_the_server_ends_is_an_outage_and_the_next_one_works(
    single: Database, postgres: Database
) -> None:
    async def end(pid: int) -> None:
        await fetch(postgres, f"SELECT pg_terminate_backend({pid}, 10000)")

    async def lose_it() -> None:
        async with single.read_once() as connection:
            assert isinstance(connection, Direct)
            ((pid,),) = await connection.fetch(PID, {})
            await end(pid)
            await connection.fetch(PID, {})

    with pytest.raises(StoreUnavailableError):
        await lose_it()
    ((idle,),) = await fetch(single, PID.text)
    await end(idle)
    assert await names(single) == []


async def test_a_server_that_is_silent_is_an_outage(postgres_url: str) -> None:
    database = Database.connect(postgres_url, pool=1, command_timeout_s=0.2)
    try:
        ((before,),) = await fetch(database, PID.text)
        with pytest.raises(StoreUnavailableError):
            await fetch(database, "SELECT pg_sleep(60)")
        assert await names(database) == []
        ((after,),) = await fetch(database, PID.text)
        assert after != before, "the next would wait for what does not answer to a cancel either"
    finally:
        await database.close()


async def test_a_statement_survives_a_migration(single: Database) -> None:
    """Its plan was of the table as it was; processes run on while columns change."""
    await insert(single, "a")
    assert await names(single) == ["a"]
    async with single.write() as migrating:
        await migrating.exec_driver_sql("ALTER TABLE projects ALTER COLUMN name TYPE text")
    assert await names(single) == ["a"]


def test_a_statement_whose_text_depends_on_its_values_is_refused() -> None:
    listed = sa.select(projects.c.id).where(projects.c.name.in_(["a", "b"]))
    written = sa.select(projects.c.id).where(projects.c.name == sa.literal("a", literal_execute=True))
    for statement in (listed, written):
        with pytest.raises(ValueError, match="not one text"):
            Written.of(statement)


async def test_a_value_that_is_missing_is_named(single: Database) -> None:
    statement = Written.of(sa.select(projects.c.id).where(projects.c.name == sa.bindparam("sought")))
    async with single.read_once() as connection:
        assert isinstance(connection, Direct)
        with pytest.raises(KeyError, match="sought"):
            await connection.fetch(statement, {})
