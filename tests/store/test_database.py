from __future__ import annotations

import asyncio
import socket
import threading
from pathlib import Path

import pytest
import sqlalchemy as sa

from tests.store import seeds
from tollgate.domain.errors import SettingsError, StoreUnavailableError
from tollgate.domain.ids import new_id
from tollgate.store.database import Database, WriteConnection, async_url
from tollgate.store.schema import projects


async def add_project(connection: WriteConnection, name: str) -> None:
    await connection.execute(sa.insert(projects).values(id=new_id(), name=name, created_at=seeds.NOW))


async def names(database: Database) -> list[str]:
    async with database.read() as connection:
        return list((await connection.execute(sa.select(projects.c.name).order_by(projects.c.name))).scalars())


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("postgres://u:p@h/d", "postgresql+asyncpg://u:p@h/d"),
        ("postgresql://h:5433/d", "postgresql+asyncpg://h:5433/d"),
        ("postgresql+asyncpg://h/d", "postgresql+asyncpg://h/d"),
        ("postgresql://h/d?sslmode=require", "postgresql+asyncpg://h/d?ssl=require"),
        ("sqlite:////data/a.db", "sqlite+aiosqlite:////data/a.db"),
    ],
)
def test_people_need_not_name_the_driver(given: str, expected: str) -> None:
    assert async_url(given).render_as_string(hide_password=False) == expected


def test_another_kind_of_database_is_refused() -> None:
    with pytest.raises(SettingsError, match="mysql"):
        async_url("mysql://h/d")


async def test_a_write_is_there_when_its_block_has_ended(database: Database) -> None:
    async with database.write() as connection:
        await add_project(connection, "a")
    assert await names(database) == ["a"]


async def test_a_write_that_fails_leaves_nothing(database: Database) -> None:
    async def write_and_fail() -> None:
        async with database.write() as connection:
            await add_project(connection, "a")
            raise LookupError

    with pytest.raises(LookupError):
        await write_and_fail()
    assert await names(database) == []


async def test_a_write_that_is_cancelled_leaves_nothing_and_the_connection_usable(database_url: str) -> None:
    database = Database.connect(database_url, pool=1)
    inside = asyncio.Event()

    async def write_for_ever() -> None:
        async with database.write() as connection:
            await add_project(connection, "lost")
            inside.set()
            await asyncio.Event().wait()

    try:
        for n in range(5):
            inside.clear()
            writing = asyncio.create_task(write_for_ever())
            await asyncio.wait_for(inside.wait(), timeout=10)
            writing.cancel()
            await asyncio.wait([writing])
            async with asyncio.timeout(10), database.write() as connection:
                await add_project(connection, f"kept {n}")
        assert await names(database) == [f"kept {n}" for n in range(5)]
    finally:
        await database.close()


SLOW = {
    "postgresql": "SELECT pg_sleep(60)",
    "sqlite": "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 2000000) SELECT max(i) FROM n",
}


async def test_a_statement_that_is_cancelled_leaves_the_connection_usable(database_url: str) -> None:
    database = Database.connect(database_url, pool=1)
    started = asyncio.Event()

    async def run_slowly() -> None:
        async with database.write() as connection:
            await add_project(connection, "lost")
            started.set()
            await connection.exec_driver_sql(SLOW[database.dialect])

    try:
        running = asyncio.create_task(run_slowly())
        await asyncio.wait_for(started.wait(), timeout=10)
        running.cancel()
        await asyncio.wait([running])
        assert running.cancelled()
        async with asyncio.timeout(10), database.write() as connection:
            await add_project(connection, "kept")
        assert await names(database) == ["kept"]
    finally:
        await database.close()


async def test_who_is_cancelled_while_waiting_for_a_connection_takes_none(database_url: str) -> None:
    database = Database.connect(database_url, pool=1)
    try:
        async with database.write() as connection:
            await add_project(connection, "a")
            waiting = [asyncio.create_task(names_by_writing(database)) for _ in range(3)]
            await asyncio.sleep(0)
            for task in waiting:
                task.cancel()
            await asyncio.wait(waiting)
        assert await asyncio.wait_for(names(database), timeout=10) == ["a"]
    finally:
        await database.close()


async def names_by_writing(database: Database) -> list[str]:
    async with database.write() as connection:
        return list((await connection.execute(sa.select(projects.c.name))).scalars())


async def test_an_integrity_error_is_not_an_outage(database: Database) -> None:
    async def write_twice() -> None:
        async with database.write() as connection:
            await add_project(connection, "a")
            await add_project(connection, "a")

    with pytest.raises(sa.exc.IntegrityError):
        await write_twice()


@pytest.mark.parametrize("name", ["half of a pair \ud800", "n" * 65, 2**70])
async def test_a_value_that_cannot_be_stored_is_not_an_outage(postgres: Database, name: object) -> None:
    async def write() -> None:
        async with postgres.write() as connection:
            await connection.execute(sa.insert(projects).values(id=new_id(), name=name, created_at=seeds.NOW))

    with pytest.raises(Exception) as caught:  # noqa: PT011 - asyncpg and SQLAlchemy disagree about its class
        await write()
    assert not isinstance(caught.value, StoreUnavailableError)
    assert await names(postgres) == []


async def test_a_wrong_statement_is_not_an_outage(database: Database) -> None:
    async def ask() -> None:
        async with database.read() as connection:
            await connection.exec_driver_sql("SELECT no_such_column FROM projects")

    with pytest.raises(sa.exc.DBAPIError):
        await ask()


async def test_an_error_of_the_callers_own_is_not_an_outage(database: Database) -> None:
    async def fail() -> None:
        async with database.read():
            raise FileNotFoundError("not ours")

    with pytest.raises(FileNotFoundError):
        await fail()


def closed_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port: int = taken.getsockname()[1]
    return port


async def test_a_server_that_refuses_is_an_outage_at_once() -> None:
    database = Database.connect(f"postgresql://postgres@127.0.0.1:{closed_port()}/postgres")
    try:
        async with asyncio.timeout(3):
            with pytest.raises(StoreUnavailableError, match="does not answer"):
                await names(database)
    finally:
        await database.close()


async def test_a_database_that_is_not_there_is_an_outage(postgres_server: str) -> None:
    url = sa.make_url(postgres_server).set(database="tollgate_test_absent").render_as_string(hide_password=False)
    database = Database.connect(url)
    try:
        with pytest.raises(StoreUnavailableError, match="tollgate_test_absent"):
            await names(database)
    finally:
        await database.close()


async def test_a_connection_that_the_server_ends_is_an_outage_and_the_next_one_works(postgres_url: str) -> None:
    database, other = Database.connect(postgres_url, pool=1), Database.connect(postgres_url, pool=1)

    async def lose_it() -> None:
        async with database.write() as connection:
            pid = (await connection.exec_driver_sql("SELECT pg_backend_pid()")).scalar_one()
            async with other.read() as killer:
                await killer.exec_driver_sql(f"SELECT pg_terminate_backend({pid}, 10000)")
            await add_project(connection, "lost")

    try:
        with pytest.raises(StoreUnavailableError):
            await lose_it()
        assert await names(database) == []
    finally:
        await database.close()
        await other.close()


async def test_a_lock_that_does_not_come_is_an_outage(postgres: Database) -> None:
    async def wait_for_lock() -> None:
        async with postgres.write() as connection:
            await connection.exec_driver_sql("SET LOCAL lock_timeout = '10ms'")
            await connection.exec_driver_sql("LOCK TABLE projects")

    async with postgres.write() as holder:
        await holder.exec_driver_sql("LOCK TABLE projects")
        with pytest.raises(StoreUnavailableError, match="lock timeout"):
            await wait_for_lock()


async def test_a_file_that_cannot_be_opened_is_an_outage(tmp_path: Path) -> None:
    database = Database.connect(f"sqlite:///{tmp_path}")
    try:
        with pytest.raises(StoreUnavailableError, match="unable to open"):
            await names(database)
    finally:
        await database.close()
        # aiosqlite does not wait for the thread of a connection that failed; it must end before this loop does.
        for thread in threading.enumerate():
            if "_connection_worker_thread" in thread.name:
                await asyncio.to_thread(thread.join, 10)


async def test_writers_on_sqlite_queue_instead_of_failing(sqlite: Database) -> None:
    async def read_then_write(n: int) -> None:
        # A deferred transaction that turns to writing would fail here as soon as another has written.
        async with sqlite.write() as connection:
            await connection.execute(sa.select(projects))
            await add_project(connection, f"{n:03}")

    await asyncio.wait_for(asyncio.gather(*(read_then_write(n) for n in range(100))), timeout=60)
    assert await names(sqlite) == [f"{n:03}" for n in range(100)]


async def test_two_processes_may_write_to_one_sqlite_file(sqlite_url: str) -> None:
    both = [Database.connect(sqlite_url) for _ in range(2)]

    async def write(database: Database, name: str) -> None:
        async with database.write() as connection:
            await connection.execute(sa.select(projects))
            await add_project(connection, name)

    try:
        writes = (write(database, f"{n}-{i}") for n, database in enumerate(both) for i in range(30))
        await asyncio.wait_for(asyncio.gather(*writes), timeout=60)
        assert len(await names(both[0])) == 60
    finally:
        await asyncio.gather(*(database.close() for database in both))


async def test_a_reader_on_sqlite_does_not_wait_for_the_writer(sqlite: Database) -> None:
    async with sqlite.write() as connection:
        await add_project(connection, "not yet")
        assert await asyncio.wait_for(names(sqlite), timeout=5) == []
    assert await names(sqlite) == ["not yet"]


async def test_sqlite_keeps_what_it_has_confirmed(sqlite: Database) -> None:
    async with sqlite.write() as connection:
        modes = [
            (await connection.exec_driver_sql(f"PRAGMA {pragma}")).scalar_one()
            for pragma in ("journal_mode", "synchronous", "foreign_keys")
        ]
    assert modes == ["wal", 2, 1]


async def test_the_folder_of_a_sqlite_file_is_made(tmp_path: Path) -> None:
    database = Database.connect(f"sqlite:///{tmp_path / 'a' / 'b' / 'tollgate.db'}")
    try:
        async with database.write() as connection:
            await connection.exec_driver_sql("CREATE TABLE t (i INTEGER)")
    finally:
        await database.close()
    assert (tmp_path / "a" / "b" / "tollgate.db").exists()


async def test_many_first_connections_to_a_new_sqlite_file_do_not_fail(tmp_path: Path) -> None:
    database = Database.connect(f"sqlite:///{tmp_path / 'new.db'}")

    async def read() -> None:
        async with database.read() as connection:
            await connection.exec_driver_sql("SELECT 1")

    async def write() -> None:
        async with database.write() as connection:
            await connection.exec_driver_sql("SELECT 1")

    try:
        await asyncio.wait_for(asyncio.gather(*(read() for _ in range(8)), write(), write()), timeout=30)
    finally:
        await database.close()
