from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.store import seeds
from tollgate.domain.settling import Settlement
from tollgate.domain.states import AttemptOutcome, TaskState
from tollgate.store import announce, queues
from tollgate.store.announce import Overdue
from tollgate.store.database import Database
from tollgate.store.intake import NO_PRICES
from tollgate.store.queues import Queue

QUEUE = Queue(route=seeds.ROUTE, lane=seeds.LANE)


async def take(database: Database, *, after_s: float = 0.0, limit: int = 100, queue: Queue = QUEUE) -> list[object]:
    async with database.write() as connection:
        taken = await announce.take_due(connection, {queue: limit}, now=seeds.later(after_s), prices=NO_PRICES)
        return list(taken[queue].ids)


async def test_the_queues_are_those_with_queued_tasks(database: Database) -> None:
    key = await seeds.a_key(database)
    await seeds.queued(database, key, count=3, route="b/m", lane="cloud.bulk")
    await seeds.queued(database, key, count=2, route="b/m", lane="cloud.interactive")
    await seeds.queued(database, key, route="a/m", lane="local.bulk")
    await seeds.queued(database, key, route="c/m", lane="cloud.bulk", not_before=seeds.later(99))
    await seeds.running(database, key, route="d/m")
    async with database.read() as connection:
        found = await queues.read(connection)
    assert [(queue.route, queue.lane) for queue in found] == [
        ("a/m", "local.bulk"), ("b/m", "cloud.bulk"), ("b/m", "cloud.interactive"), ("c/m", "cloud.bulk"),
    ]  # fmt: skip


async def test_an_empty_store_has_no_queues(database: Database) -> None:
    async with database.read() as connection:
        assert await queues.read(connection) == []


async def test_due_tasks_are_taken_once(database: Database) -> None:
    ids = await seeds.queued(database, await seeds.a_key(database), count=3)
    assert await take(database) == ids
    assert await take(database, after_s=1) == []


@pytest.mark.parametrize(("lane", "seconds"), [("cloud.interactive", 15.0), ("cloud.bulk", 30.0), ("local.bulk", 30.0)])
async def test_a_hint_is_given_again_when_its_lease_has_passed(database: Database, lane: str, seconds: float) -> None:
    ids = await seeds.queued(database, await seeds.a_key(database), lane=lane)
    queue = Queue(route=seeds.ROUTE, lane=lane)
    assert await take(database, queue=queue) == ids
    assert await take(database, queue=queue, after_s=seconds) == []
    assert await take(database, queue=queue, after_s=seconds + 0.001) == ids


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"not_before": seeds.later(1)}, id="not due"),
        pytest.param({"not_before": seeds.later(-9), "deadline": seeds.NOW}, id="past its deadline"),
        pytest.param({"route": "zhipu/other"}, id="another route"),
        pytest.param({"lane": "cloud.bulk"}, id="another lane"),
        pytest.param({"announced_at": seeds.later(-14)}, id="freshly announced"),
    ],
)
async def test_what_is_not_this_queues_to_run_now_is_not_taken(database: Database, changes: dict[str, Any]) -> None:
    await seeds.queued(database, await seeds.a_key(database), **changes)
    assert await take(database) == []


async def test_what_has_been_due_longest_is_taken_first(database: Database) -> None:
    key = await seeds.a_key(database)
    late = await seeds.queued(database, key, count=3)
    early = await seeds.queued(database, key, count=2, not_before=seeds.later(-60))
    assert await take(database, limit=2) == early
    assert await take(database, limit=9) == late


async def test_a_hint_given_back_is_given_again_at_once(database: Database) -> None:
    ids = await seeds.queued(database, await seeds.a_key(database), count=3)
    await take(database)
    async with database.write() as connection:
        await announce.unannounce(connection, ids[1:])
    assert await take(database) == ids[1:]


async def test_giving_back_does_not_touch_a_claimed_task(database: Database) -> None:
    (id_,) = await seeds.queued(database, await seeds.a_key(database))
    await take(database)
    await seeds.claim(database, id_)
    async with database.write() as connection:
        await announce.unannounce(connection, [id_])
    assert (await seeds.row(database, id_)).announced_at == seeds.NOW


async def test_giving_back_does_not_wait_for_who_is_claiming(postgres: Database) -> None:
    ids = await seeds.queued(postgres, await seeds.a_key(postgres), count=2)
    await take(postgres)
    async with asyncio.timeout(10), postgres.write() as claiming, postgres.write() as giving:
        await announce.take_due(claiming, {QUEUE: 1}, now=seeds.later(60), prices=NO_PRICES)
        await announce.unannounce(giving, ids)
    assert (await seeds.row(postgres, ids[1])).announced_at is None


async def test_of_two_announcers_one_has_its_turn(postgres: Database) -> None:
    async with asyncio.timeout(10), announce.turn(postgres) as first, announce.turn(postgres) as second:
        assert first is not None
        assert second is None
    async with announce.turn(postgres) as third:
        assert third is not None


async def test_turns_on_sqlite_come_one_after_the_other(sqlite: Database) -> None:
    turns: list[str] = []

    async def work(name: str) -> None:
        async with announce.turn(sqlite) as connection:
            assert connection is not None
            turns.append(name)
            await announce.take_due(connection, {QUEUE: 1}, now=seeds.NOW, prices=NO_PRICES)
            turns.append(name)

    await asyncio.wait_for(asyncio.gather(*(work(name) for name in "abc")), timeout=10)
    assert turns[::2] == turns[1::2]


async def test_overdue_tasks_come_with_what_settling_them_needs(database: Database) -> None:
    key = await seeds.a_key(database)
    (late,) = await seeds.queued(database, key, not_before=seeds.later(-9), deadline=seeds.later(-1))
    (later,) = await seeds.queued(database, key, not_before=seeds.later(-9), deadline=seeds.NOW)
    await seeds.queued(database, key, deadline=seeds.later(1))
    async with database.read() as connection:
        found = await announce.overdue(connection, now=seeds.NOW, limit=9)
        assert await announce.overdue(connection, now=seeds.NOW, limit=1) == found[:1]
        assert await announce.overdue(connection, now=seeds.NOW, limit=9, without=[late]) == found[1:]
    assert found == [Overdue(id=late, fence=0, attempt=1), Overdue(id=later, fence=0, attempt=1)]


async def test_an_overdue_task_expires(database: Database) -> None:
    (id_,) = await seeds.queued(database, await seeds.a_key(database))
    expiry = Settlement(
        task_id=id_, fence=0, attempt=1, held=TaskState.QUEUED, outcome=AttemptOutcome.ABANDONED,
        state=TaskState.EXPIRED, error_code="expired",
    )  # fmt: skip
    (resolution,) = await seeds.settle(database, expiry, now=seeds.later(3601))
    assert resolution.task
    assert (await seeds.row(database, id_)).state == "expired"


def test_messages_are_one_a_lane() -> None:
    told = {
        Queue(route="a", lane="cloud.bulk"): [1, 2],
        Queue(route="b", lane="cloud.bulk"): [3],
        Queue(route="a", lane="cloud.interactive"): [],
    }
    assert announce.by_lane(told) == {"cloud.bulk": {"a": [1, 2], "b": [3]}}  # type: ignore[arg-type]
