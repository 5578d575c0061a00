"""Orphans and late tasks are settled once, however many beats there are, and a bad one does not hold up the rest."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import cast
from uuid import UUID

import pytest

from tests.store import seeds
from tests.worker.world import BULK, INTERACTIVE, PRICES, World, beat_of
from tollgate.broker.bus import ENDED
from tollgate.broker.publisher import Publisher
from tollgate.domain.ids import new_id
from tollgate.domain.states import AttemptOutcome, OnUncertain, TaskState
from tollgate.store import leases
from tollgate.store.schema import tasks, workers
from worker import announcer as announcing
from worker import watch as watching
from worker.announcer import Announcer
from worker.billing import Rules
from worker.sweeping import ASIDE_S
from worker.watch import FORGET_EVERY_S, Watch


class Told:
    """In the publisher's place: what was handed to it."""

    def __init__(self) -> None:
        self.ids: list[UUID] = []

    def announce(self, _lane: str, hints: Mapping[str, list[UUID]]) -> None:
        for ids in hints.values():
            self.ids.extend(ids)


class Clock:
    """Monotonic seconds that pass when told to."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


async def a_worker(world: World) -> UUID:
    worker_id = new_id()
    async with world.database.write() as connection:
        await leases.register(connection, worker_id, name="w", lanes=(INTERACTIVE, BULK), now=datetime.now(UTC))
    return worker_id


async def orphans(world: World, count: int, **changes: object) -> list[UUID]:
    """Tasks that a dead worker was running."""
    worker_id = await a_worker(world)
    ids = await world.queue(*(f"question {n}" for n in range(count)), **changes)
    await seeds.claim(world.database, *ids, worker_id=worker_id, now=datetime.now(UTC))
    await world.bury(worker_id)
    return ids


async def late(world: World, count: int) -> list[UUID]:
    """Queued tasks whose deadline has passed."""
    past = datetime.now(UTC) - timedelta(seconds=1)
    return await world.queue(*(f"question {n}" for n in range(count)), deadline=past, retry_until=past)


async def poison(world: World, task_id: UUID) -> None:
    """From now on the database refuses any change of this row."""
    async with world.database.write() as connection:
        if world.database.dialect == "sqlite":
            await connection.exec_driver_sql(
                "CREATE TRIGGER poison BEFORE UPDATE OF state ON tasks"
                f" WHEN NEW.id = '{task_id.hex}' BEGIN SELECT RAISE(ABORT, 'poison'); END"
            )
            return
        await connection.exec_driver_sql(
            "CREATE FUNCTION poison() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RAISE ''poison''; END'"
        )
        await connection.exec_driver_sql(
            "CREATE TRIGGER poison BEFORE UPDATE OF state ON tasks"
            f" FOR EACH ROW WHEN (NEW.id = '{task_id}') EXECUTE FUNCTION poison()"
        )


async def cure(world: World) -> None:
    async with world.database.write() as connection:
        on = " ON tasks" if world.database.dialect == "postgresql" else ""
        await connection.exec_driver_sql(f"DROP TRIGGER poison{on}")


async def test_an_orphan_that_cannot_be_settled_does_not_keep_the_others_waiting(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    # Small pages, so that the bad one stands in the first of many.
    monkeypatch.setattr(watching, "RESCUE_AT_ONCE", 3)
    first, bad, *others = await orphans(world, 11)
    await poison(world, bad)
    watch = Watch(world.database, world.bus, Rules(prices=PRICES))
    assert await asyncio.wait_for(watch.rescue(), timeout=20) == 10
    assert Counter([await world.state(i) for i in (first, *others)]) == {TaskState.QUEUED: 10}
    assert await world.state(bad) is TaskState.RUNNING
    logged = [record for record in caplog.records if record.message == "task cannot be settled"]
    assert [record.__dict__["task_id"] for record in logged] == [str(bad)]


async def test_a_late_task_that_cannot_be_settled_does_not_keep_the_others_waiting(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(announcing, "EXPIRE_AT_ONCE", 3)  # Small pages, so that the bad one stands in the first.
    first, bad, *others = await late(world, 7)
    await poison(world, bad)
    announcer = Announcer(world.database, cast(Publisher, Told()), rules=Rules(prices=PRICES))
    expired = [id_ for _ in range(3) for id_ in await announcer.expire()]
    assert sorted(expired) == [first, *others]
    assert await world.state(bad) is TaskState.QUEUED


async def test_a_task_set_aside_is_tried_again_after_a_while(world: World, caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    watch = Watch(world.database, world.bus, Rules(prices=PRICES), clock=clock)
    [bad] = await orphans(world, 1)
    await poison(world, bad)
    assert [await watch.rescue() for _ in range(3)] == [0, 0, 0]
    assert [record.message for record in caplog.records].count("task cannot be settled") == 1
    await cure(world)
    clock.now_s += ASIDE_S
    assert await watch.rescue() == 1


async def test_two_beats_tell_of_each_task_once(postgres_world: World) -> None:
    world = postgres_world
    await a_worker(world)
    ids = await world.queue(*(f"question {n}" for n in range(100)), announced_at=None)
    told = Told()
    announcers = [Announcer(world.database, cast(Publisher, told), rules=Rules(prices=PRICES)) for _ in range(2)]
    for _ in range(3):
        await asyncio.gather(*(announcer.announce() for announcer in announcers))
    assert sorted(told.ids) == ids


async def test_two_beats_rescue_and_expire_each_task_once(postgres_world: World) -> None:
    world = postgres_world
    orphaned = await orphans(world, 300)
    hopeless = await orphans(world, 50, on_uncertain=OnUncertain.FAIL)
    expired = await late(world, 300)
    notices: list[UUID] = []
    world.bus.subscribe(ENDED, notices.extend)
    beats = [beat_of(world.database, world.bus, Told()) for _ in range(2)]
    await asyncio.gather(*(beat.round() for beat in beats))
    await world.ended([*hopeless, *expired])
    assert sorted(notices) == sorted([*hopeless, *expired])
    accounts = await world.accounts()
    assert (accounts.attempts_uncertain, accounts.tasks_failed) == (350, 350)
    rows = {row.id: row for row in await seeds.rows_of(world.database, tasks)}
    assert {(rows[i].state, rows[i].tries, rows[i].attempt) for i in orphaned} == {("queued", 1, 2)}


async def test_a_polled_call_is_left_open_for_whoever_claims_its_task_next(world: World) -> None:
    [task_id] = await orphans(world, 1)
    async with world.database.write() as connection:
        await connection.exec_driver_sql("UPDATE attempts SET upstream_id = 'u-1'")
    assert await Watch(world.database, world.bus, Rules(prices=PRICES)).rescue() == 1
    task = await world.task(task_id)
    assert (task.state, task.tries, [a.outcome for a in task.attempts]) == (TaskState.QUEUED, 0, [AttemptOutcome.OPEN])
    [claimed] = await seeds.claim(world.database, task_id, now=datetime.now(UTC) + timedelta(seconds=1))
    assert (claimed.attempt, claimed.upstream_id) == (1, "u-1")


async def test_the_watch_forgets_workers_that_died_a_day_ago(world: World) -> None:
    clock = Clock()
    watch = Watch(world.database, world.bus, Rules(prices=PRICES), clock=clock)
    await watch.look()
    recent, old = await a_worker(world), new_id()
    yesterday = datetime.now(UTC) - timedelta(days=1, seconds=1)
    async with world.database.write() as connection:
        await leases.register(connection, old, name="w", lanes=(BULK,), now=yesterday)
    for worker_id in (recent, old):
        await world.bury(worker_id)
    clock.now_s += FORGET_EVERY_S - 1
    await watch.look()
    assert {row.id for row in await seeds.rows_of(world.database, workers)} == {recent, old}
    clock.now_s += 1
    await watch.look()
    assert {row.id for row in await seeds.rows_of(world.database, workers)} == {recent}
