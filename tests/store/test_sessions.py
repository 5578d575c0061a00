"""Sessions whose process stopped in the middle of a statement are ended, and no others."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest

from tollgate.domain.errors import StoreUnavailableError
from tollgate.store import announce, sessions
from tollgate.store.database import Database, ReadConnection

LONG_S = 0.2


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "UNSENT_AFTER_MS", LONG_S * 500)
    monkeypatch.setattr(sessions, "UNREAD_AFTER_MS", LONG_S * 500)


async def stop_in_a_statement(connection: ReadConnection) -> None:
    """As the server sees a process that freezes between a statement's Parse and its Sync."""
    raw = (await connection.get_raw_connection()).driver_connection
    assert isinstance(raw, asyncpg.Connection)
    await raw.prepare("SELECT $1::int + 1")


@contextlib.asynccontextmanager
async def the_announcers_turn(database: Database) -> AsyncIterator[ReadConnection]:
    """Its end is not looked at: the server may have ended it."""
    with contextlib.suppress(StoreUnavailableError):
        async with announce.turn(database) as connection:
            assert connection is not None
            yield connection


async def end_abandoned(database: Database) -> list[int]:
    await asyncio.sleep(LONG_S)
    async with database.read() as connection:
        return await sessions.end_abandoned(connection)


async def has_turn(database: Database) -> bool:
    async with announce.turn(database) as connection:
        return connection is not None


async def test_who_stopped_in_the_middle_of_a_statement_loses_its_locks(postgres: Database, postgres_url: str) -> None:
    frozen = Database.connect(postgres_url)
    try:
        async with the_announcers_turn(frozen) as connection:
            await stop_in_a_statement(connection)
            assert not await has_turn(postgres)
            assert len(await end_abandoned(postgres)) == 1
            assert await has_turn(postgres)
        assert await has_turn(frozen), "its next connection works"
    finally:
        await frozen.close()


async def test_who_stopped_before_it_read_its_answer_loses_its_locks(postgres: Database, postgres_url: str) -> None:
    frozen = Database.connect(postgres_url)
    try:
        async with the_announcers_turn(frozen) as connection:
            driver: Any = (await connection.get_raw_connection()).driver_connection
            driver._transport.pause_reading()
            reading = asyncio.create_task(driver.fetch("SELECT repeat('x', 1000000) FROM generate_series(1, 50)"))
            await asyncio.sleep(LONG_S)
            assert not await has_turn(postgres)
            assert len(await end_abandoned(postgres)) == 1
            assert await has_turn(postgres)
            driver._transport.resume_reading()
            with pytest.raises(asyncpg.PostgresConnectionError):
                await reading
    finally:
        await frozen.close()


async def test_who_locked_nothing_is_left_alone(postgres: Database, postgres_url: str) -> None:
    """Nobody waits for it."""
    slow = Database.connect(postgres_url)
    try:
        async with slow.read() as connection:
            await stop_in_a_statement(connection)
            assert await end_abandoned(postgres) == []
    finally:
        await slow.close()


async def test_who_is_between_two_statements_or_in_one_is_left_alone(postgres: Database, postgres_url: str) -> None:
    """The first has a limit of the server's own; the second works."""
    busy = Database.connect(postgres_url)
    try:
        async with the_announcers_turn(busy), busy.read() as working:
            query = asyncio.create_task(working.exec_driver_sql(f"SELECT pg_sleep({4 * LONG_S})"))
            assert await end_abandoned(postgres) == []
            await query
            assert not await has_turn(postgres)
    finally:
        await busy.close()


async def test_a_scan_that_may_take_its_time_is_left_alone(postgres: Database, postgres_url: str) -> None:
    scan = Database.connect(postgres_url, command_timeout_s=None)
    try:
        async with the_announcers_turn(scan) as connection:
            await stop_in_a_statement(connection)
            assert await end_abandoned(postgres) == []
    finally:
        await scan.close()


async def test_sqlite_has_no_sessions_to_end(sqlite: Database) -> None:
    async with sqlite.read() as connection:
        assert await sessions.end_abandoned(connection) == []
