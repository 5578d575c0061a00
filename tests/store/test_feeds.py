"""Whose tasks a window holds when many projects and batches wait in one queue."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

import pytest

from tests.store import seeds
from tollgate.domain.ids import new_id
from tollgate.store import announce, feeds, queues
from tollgate.store.database import Database, WriteConnection
from tollgate.store.feeds import Taken
from tollgate.store.intake import NO_PRICES
from tollgate.store.queues import Queue
from tollgate.store.schema import tasks

QUEUE = Queue(route=seeds.ROUTE, lane=seeds.LANE)


async def take(database: Database, *, limit: int, after: UUID | None = None, now: datetime = seeds.NOW) -> Taken:
    async with database.write() as connection:
        found = await announce.take_due(connection, {QUEUE: limit}, now=now, after={QUEUE: after}, prices=NO_PRICES)
        return found[QUEUE]


async def feeds_of(database: Database, ids: Sequence[UUID]) -> Counter[UUID]:
    rows = {row.id: row.feed for row in await seeds.rows_of(database, tasks)}
    return Counter(rows[id_] for id_ in ids)


async def copies(database: Database, task_id: UUID, count: int, *, feeds_count: int = 1) -> None:
    """`count` more rows like this one, of its own feed, or in turns of so many new ones: as fast as SQL can."""
    columns = [column.name for column in tasks.c if column.name not in ("id", "feed")]
    numbers = (
        f"generate_series(1, {count}) AS n(i)"
        if database.dialect == "postgresql"
        else f"(WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {count}) SELECT i FROM n) AS n"
    )
    as_id = "lpad(to_hex({}), 32, '0')::uuid" if database.dialect == "postgresql" else "printf('%032x', {})"
    feed = "feed" if feeds_count == 1 else as_id.format(f"n.i % {feeds_count} + 1")
    row_id = task_id.hex if database.dialect == "sqlite" else str(task_id)
    statement = (
        f"INSERT INTO tasks (id, feed, {', '.join(columns)})"
        f" SELECT {as_id.format('n.i + 4096')}, {feed}, {', '.join(columns)} FROM tasks, {numbers}"
        f" WHERE tasks.id = '{row_id}'"
    )
    async with database.write() as connection:
        await connection.exec_driver_sql(statement)


async def test_a_neighbour_has_its_share_beside_fifty_thousand_rows(database: Database) -> None:
    big, small = await seeds.a_key(database, project="big"), await seeds.a_key(database, project="small")
    (first,) = await seeds.queued(database, big, not_before=seeds.later(-60))
    await copies(database, first, 50_000)
    await seeds.queued(database, small, count=100)
    taken = await take(database, limit=60)
    assert await feeds_of(database, taken.ids) == {big.project_id: 30, small.project_id: 30}
    assert taken.more


async def test_the_feeds_of_a_window_alternate(database: Database) -> None:
    keys = [await seeds.a_key(database, project=name) for name in ("a", "b")]
    a, b = [await seeds.queued(database, key, count=3) for key in keys]
    taken = await take(database, limit=9)
    pairs = [set(taken.ids[n : n + 2]) for n in (0, 2, 4)]
    assert pairs == [{a[n], b[n]} for n in range(3)]


async def test_what_a_small_feed_leaves_goes_to_the_others(database: Database) -> None:
    keys = [await seeds.a_key(database, project=name) for name in ("a", "b", "c")]
    for key, count in zip(keys, (50, 50, 3), strict=True):
        await seeds.queued(database, key, count=count)
    taken = await take(database, limit=43)
    assert await feeds_of(database, taken.ids) == {
        keys[0].project_id: 20,
        keys[1].project_id: 20,
        keys[2].project_id: 3,
    }


async def test_batches_of_one_project_are_feeds_of_their_own(database: Database) -> None:
    key = await seeds.a_key(database)
    batches = [new_id() for _ in range(2)]
    for feed, count in zip(batches, (40, 5), strict=True):
        await seeds.queued(database, key, count=count, feed=feed)
    await seeds.queued(database, key, count=40)
    taken = await take(database, limit=15)
    assert set((await feeds_of(database, taken.ids)).values()) == {5}


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"not_before": seeds.later(1)}, id="not due"),
        pytest.param({"announced_at": seeds.later(-1)}, id="freshly announced"),
        pytest.param({"not_before": seeds.later(-9), "deadline": seeds.NOW}, id="past its deadline"),
    ],
)
async def test_a_feed_with_nothing_due_takes_no_share(database: Database, changes: dict[str, Any]) -> None:
    busy, idle = await seeds.a_key(database, project="busy"), await seeds.a_key(database, project="idle")
    await seeds.queued(database, busy, count=20)
    await seeds.queued(database, idle, count=20, **changes)
    taken = await take(database, limit=10)
    assert await feeds_of(database, taken.ids) == {busy.project_id: 10}


async def test_each_feed_gives_what_was_due_first(database: Database) -> None:
    key = await seeds.a_key(database)
    late = await seeds.queued(database, key, count=2)
    early = await seeds.queued(database, key, count=2, not_before=seeds.later(-60))
    assert list((await take(database, limit=3)).ids) == [*early, late[0]]


async def test_a_window_smaller_than_the_feeds_goes_round(database: Database) -> None:
    keys = [await seeds.a_key(database, project=f"p{n}") for n in range(5)]
    for key in keys:
        await seeds.queued(database, key, count=9)
    met: list[UUID] = []
    last = None
    for _ in range(5):
        taken = await take(database, limit=2, after=last)
        met += (await feeds_of(database, taken.ids)).elements()
        last = taken.last
    assert Counter(met) == {key.project_id: 2 for key in keys}


async def test_thousands_of_feeds_are_met_within_some_rounds(database: Database) -> None:
    key = await seeds.a_key(database)
    (first,) = await seeds.queued(database, key)
    await copies(database, first, 6_000, feeds_count=2_000)
    rounds, last, met = 0, None, Counter[UUID]()
    while len(met) < 2_001:
        taken = await take(database, limit=600, after=last)
        met += await feeds_of(database, taken.ids)
        rounds, last = rounds + 1, taken.last
        assert rounds <= 2_001 // feeds.FEEDS_AT_ONCE + 1
    assert max(met.values()) <= 3


async def test_feeds_with_nothing_due_do_not_hide_the_others_for_long(database: Database) -> None:
    key = await seeds.a_key(database)
    (undue,) = await seeds.queued(
        database, key, feed=UUID(int=1), not_before=seeds.later(9999), deadline=seeds.later(99999)
    )
    await copies(database, undue, 1_000, feeds_count=1_000)
    ids = await seeds.queued(database, key, feed=UUID(int=2**100))
    last, found = None, list[UUID]()
    for _ in range(1_000 // feeds.FEEDS_AT_ONCE + 1):
        assert found == []
        taken = await take(database, limit=10, after=last)
        found, last = [*found, *taken.ids], taken.last
    assert found == ids


async def test_an_empty_queue_gives_nothing(database: Database) -> None:
    assert await take(database, limit=5) == Taken(ids=[], last=None, unreserved={}, more=False)


@pytest.mark.parametrize("question", ["walk the queues", "take due"])
async def test_sqlite_steps_over_no_waiting_row(sqlite: Database, question: str) -> None:
    key = await seeds.a_key(sqlite)
    (first,) = await seeds.queued(sqlite, key)
    asked: dict[str, Callable[[WriteConnection], Awaitable[object]]] = {
        "walk the queues": queues.read,
        "take due": lambda c: announce.take_due(c, {QUEUE: 20}, now=seeds.NOW, prices=NO_PRICES),
    }
    few = await steps_of(sqlite, asked[question])
    await copies(sqlite, first, 50_000, feeds_count=20)
    assert await steps_of(sqlite, asked[question]) < few + 400


async def steps_of(database: Database, question: Callable[[WriteConnection], Awaitable[object]]) -> int:
    """Hundreds of steps of SQLite's virtual machine; a row it looks at costs some ten. What it changes is undone."""
    hundreds = 0

    def count() -> int:
        nonlocal hundreds
        hundreds += 1
        return 0

    async with database.write() as connection:
        raw = (await connection.get_raw_connection()).driver_connection
        assert raw is not None
        await raw.set_progress_handler(count, 100)
        savepoint = await connection.begin_nested()
        await question(connection)
        await savepoint.rollback()
        await raw.set_progress_handler(None, 0)
    return hundreds
