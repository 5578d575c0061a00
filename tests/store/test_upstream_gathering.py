"""Waiting lines of a batch are put into upstream batches, each once, whoever gathers and however often."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest
import sqlalchemy as sa

from tests.store import seeds
from tests.worker.batch_world import BatchWorld
from tests.worker.world import PRICES, World, world_of
from tollgate.domain.ids import new_id
from tollgate.store import claims, upstream_gathering
from tollgate.store.database import Database
from tollgate.store.schema import attempts, batches, tasks, upstream_batches
from tollgate.store.upstream_gathering import Buyer


@pytest.fixture
async def store(database: Database, database_url: str) -> Any:
    async with AsyncExitStack() as stack:
        yield await world_of(database, database_url, stack)


def rows_only(world: World) -> BatchWorld:
    """No engine, no simulator: only what makes batches."""
    nothing: Any = None
    return BatchWorld(world=world, simulator=nothing, spec=nothing, engine=nothing, stack=world.stack)


def buyer(**changes: Any) -> Buyer:
    return Buyer(**{"worker_id": new_id(), "credentials": {"zhipu": "KEY_A"}, "open_max": 100, **changes})


async def gather(database: Database, batch_id: UUID, by: Buyer) -> bool:
    async with database.write() as connection:
        return await upstream_gathering.gather(connection, batch_id, buyer=by, prices=PRICES, now=datetime.now(UTC))


async def groups(database: Database) -> dict[UUID, Any]:
    return {row.id: row for row in await seeds.rows_of(database, upstream_batches)}


async def test_all_lines_are_put_into_one_and_it_is_closed_with_the_last(store: World) -> None:
    bw = rows_only(store)
    batch_id = await bw.batch(*(f"p{n}" for n in range(1_000)))
    assert not await gather(store.database, batch_id, buyer())
    (group,) = (await groups(store.database)).values()
    assert (group.state, group.lines) == ("grouped", 1_000)
    assert {row.upstream_batch_id for row in await seeds.rows_of(store.database, tasks)} == {group.id}
    opened = await seeds.rows_of(store.database, attempts)
    assert {(row.mode, row.outcome, row.number, row.upstream_id == row.request_id) for row in opened} == {
        ("batch", "open", 1, True)
    }
    async with store.database.read() as connection:
        assert await upstream_gathering.waiting(connection) == []


async def test_more_than_one_step_fills_the_same(store: World) -> None:
    bw = rows_only(store)
    batch_id = await bw.batch(*(f"p{n}" for n in range(1_500)))
    assert await gather(store.database, batch_id, buyer())
    assert not await gather(store.database, batch_id, buyer())
    assert [(row.state, row.lines) for row in (await groups(store.database)).values()] == [("grouped", 1_500)]


async def test_two_that_gather_at_once_put_no_line_twice(postgres: Database, postgres_url: str) -> None:
    async with AsyncExitStack() as stack:
        bw = rows_only(await world_of(postgres, postgres_url, stack))
        batch_id = await bw.batch(*(f"p{n}" for n in range(3_000)))
        both = [buyer(lines_max=700), buyer(lines_max=700)]
        for _ in range(6):
            await asyncio.gather(*(gather(postgres, batch_id, one) for one in both))
        found = await groups(postgres)
        assert sum(row.lines for row in found.values()) == 3_000
        put = Counter(row.upstream_batch_id for row in await seeds.rows_of(postgres, tasks))
        assert put == {row.id: row.lines for row in found.values()}
        assert all(row.lines <= 700 for row in found.values())
        assert len(await seeds.rows_of(postgres, attempts)) == 3_000


async def test_a_line_in_an_upstream_batch_is_never_claimed(store: World) -> None:
    bw = rows_only(store)
    batch_id = await bw.batch("one")
    await gather(store.database, batch_id, buyer())
    async with store.database.write() as connection:
        await connection.execute(sa.update(tasks).values(not_before=seeds.NOW))
    (task,) = await seeds.rows_of(store.database, tasks)
    async with store.database.write() as connection:
        now = datetime.now(UTC)
        assert await claims.claim(connection, [task.id], worker_id=new_id(), now=now) == []


async def test_without_a_key_nothing_is_begun_and_nothing_closed(store: World) -> None:
    bw = rows_only(store)
    batch_id = await bw.batch(*(f"p{n}" for n in range(1_500)))
    await gather(store.database, batch_id, buyer())
    assert not await gather(store.database, batch_id, buyer(credentials={"other": "KEY"}))
    (group,) = (await groups(store.database)).values()
    assert (group.state, group.lines) == ("gathering", 1_000)


async def test_another_key_begins_another_and_lets_the_first_go(store: World) -> None:
    bw = rows_only(store)
    batch_id = await bw.batch(*(f"p{n}" for n in range(1_500)))
    await gather(store.database, batch_id, buyer())
    await gather(store.database, batch_id, buyer(credentials={"zhipu": "KEY_B"}))
    found = sorted((row.credential, row.state, row.lines) for row in (await groups(store.database)).values())
    assert found == [("KEY_A", "grouped", 1_000), ("KEY_B", "grouped", 500)]


async def test_lines_that_ended_meanwhile_are_passed_over(store: World) -> None:
    bw = rows_only(store)
    batch_id = await bw.batch("one", "two", "three")
    async with store.database.write() as connection:
        gone = sa.update(tasks).where(tasks.c.line == 2)
        await connection.execute(gone.values(state="cancelled", ended_at=seeds.NOW))
    assert not await gather(store.database, batch_id, buyer())
    assert [row.lines for row in (await groups(store.database)).values()] == [2]
    assert [row.grouped_lines for row in await seeds.rows_of(store.database, batches)] == [3]
