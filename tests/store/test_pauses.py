from __future__ import annotations

import asyncio

from tests.store import seeds
from tollgate.store import pauses
from tollgate.store.database import Database
from tollgate.store.pauses import Pause


async def pause(database: Database, credential: str, *, reason: str, at_s: float, until_s: float) -> None:
    async with database.write() as connection:
        await pauses.pause(
            connection,
            "zhipu",
            credential=credential,
            reason=reason,
            now=seeds.later(at_s),
            until=seeds.later(until_s),
        )


async def read(database: Database) -> list[Pause]:
    async with database.read() as connection:
        return await pauses.read(connection)


async def test_a_pause_is_told_with_its_reason_and_its_end(database: Database) -> None:
    await pause(database, "K1", reason="no_balance", at_s=0, until_s=60)
    assert await read(database) == [
        Pause(upstream="zhipu", credential="K1", reason="no_balance", since=seeds.NOW, until=seeds.later(60))
    ]


async def test_a_pause_that_is_prolonged_keeps_its_start(database: Database) -> None:
    await pause(database, "K1", reason="no_balance", at_s=0, until_s=60)
    await pause(database, "K1", reason="bad_key", at_s=60, until_s=120)
    (found,) = await read(database)
    assert (found.since, found.until, found.reason) == (seeds.NOW, seeds.later(120), "bad_key")


async def test_a_pause_is_lifted_alone(database: Database) -> None:
    await pause(database, "K1", reason="bad_key", at_s=0, until_s=60)
    await pause(database, "K2", reason="bad_key", at_s=0, until_s=60)
    async with database.write() as connection:
        await pauses.lift(connection, "zhipu", credential="K1")
        await pauses.lift(connection, "zhipu", credential="never paused")
    assert [found.credential for found in await read(database)] == ["K2"]


async def take_turn(database: Database, *, at_s: float) -> bool:
    async with database.write() as connection:
        return await pauses.take_turn(
            connection, "zhipu", credential="K1", now=seeds.later(at_s), until=seeds.later(at_s + 60)
        )


async def test_the_turn_to_try_a_paused_credential_comes_once_a_minute(database: Database) -> None:
    await pause(database, "K1", reason="bad_key", at_s=0, until_s=60)
    await pause(database, "K2", reason="bad_key", at_s=0, until_s=60)
    assert [await take_turn(database, at_s=at_s) for at_s in (59, 60, 60, 119, 120)] == [
        False,
        True,
        False,
        False,
        True,
    ]
    assert [found.until for found in await read(database)] == [seeds.later(180), seeds.later(60)]


async def test_there_is_no_turn_for_a_credential_that_is_not_paused(database: Database) -> None:
    assert not await take_turn(database, at_s=0)
    assert await read(database) == []


async def test_of_many_who_want_the_turn_at_once_one_has_it(database: Database) -> None:
    await pause(database, "K1", reason="bad_key", at_s=0, until_s=60)
    turns = await asyncio.gather(*(take_turn(database, at_s=60) for _ in range(8)))
    assert sum(turns) == 1
