"""Dead workers are found by their heartbeats, on the watcher's own clock, and what they held is given back."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from datetime import UTC, datetime

import pytest

from tests.store import seeds
from tests.worker.world import LIMIT_S, PRICES, World
from tollgate.domain.errors import StoreUnavailableError
from tollgate.domain.ids import new_id
from tollgate.domain.states import AttemptOutcome, OnUncertain, TaskState
from tollgate.store import announce, cancels, leases, sessions
from tollgate.store.claims import Claimed
from tollgate.store.database import Database
from worker.billing import Rules
from worker.watch import Watch


@dataclass
class Clock:
    """Monotonic seconds that pass when told to."""

    now_s: float = 1000.0

    def __call__(self) -> float:
        return self.now_s


async def worker_with_a_task(world: World, **changes: object) -> Claimed:
    worker_id = new_id()
    async with world.database.write() as connection:
        await leases.register(connection, worker_id, name="w", lanes=["cloud.bulk"], now=datetime.now(UTC))
    [task_id] = await world.queue("hello", **changes)
    [claimed] = await seeds.claim(world.database, task_id, worker_id=worker_id, now=datetime.now(UTC))
    return claimed


async def watch_for(watch: Watch, clock: Clock, *, seconds: float) -> None:
    """Look every 2 s of the clock, first now."""
    for _ in range(int(seconds // 2)):
        await watch.look()
        clock.now_s += 2
    await watch.look()


async def test_a_worker_that_stands_still_for_20_s_is_dead_and_its_task_is_bought_anew(world: World) -> None:
    clock = Clock()
    watch = Watch(world.database, world.bus, Rules(prices=PRICES), clock=clock)
    claimed = await worker_with_a_task(world)
    await watch_for(watch, clock, seconds=18)
    assert await world.state(claimed.id) is TaskState.RUNNING
    await watch_for(watch, clock, seconds=2)
    task = await world.task(claimed.id)
    assert (task.state, [a.outcome for a in task.attempts]) == (TaskState.QUEUED, [AttemptOutcome.UNCERTAIN])
    assert task.attempts[0].possible_cost_nano
    assert (await seeds.row(world.database, claimed.id)).announced_at is None  # nobody remembers it: tell it soon
    assert await world.live_workers() == []


async def test_a_worker_whose_heartbeat_moves_lives(world: World) -> None:
    clock = Clock()
    watch = Watch(world.database, world.bus, Rules(prices=PRICES), clock=clock)
    await worker_with_a_task(world)
    [worker] = await world.live_workers()
    for _ in range(30):
        await watch_for(watch, clock, seconds=2)
        async with world.database.write() as connection:
            await leases.renew(connection, worker.id, load={}, now=datetime.now(UTC))
    assert len(await world.live_workers()) == 1


async def test_a_late_reading_starts_the_count_anew_and_says_so(world: World, caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    watch = Watch(world.database, world.bus, Rules(prices=PRICES), clock=clock)
    await worker_with_a_task(world)
    await watch_for(watch, clock, seconds=18)
    assert "heartbeats read late" not in caplog.text
    clock.now_s += 6
    await watch_for(watch, clock, seconds=18)
    assert caplog.text.count("heartbeats read late") == 1
    assert len(await world.live_workers()) == 1
    await watch_for(watch, clock, seconds=2)
    assert await world.live_workers() == []


async def test_a_failed_reading_starts_the_count_anew(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    watch = Watch(world.database, world.bus, Rules(prices=PRICES), clock=clock)
    await worker_with_a_task(world)
    await watch_for(watch, clock, seconds=18)
    # One reading from a server that is not there: the watch's own database is away for a moment.
    away = Database.connect("postgresql://nobody@127.0.0.1:1/none")
    monkeypatch.setattr(watch, "_database", away)
    with pytest.raises(StoreUnavailableError):
        await watch.look()
    await away.close()
    monkeypatch.setattr(watch, "_database", world.database)
    clock.now_s += 2
    await watch_for(watch, clock, seconds=18)
    assert len(await world.live_workers()) == 1


async def test_a_burial_that_waited_in_vain_for_a_lock_is_tried_again_at_once(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    watch = Watch(world.database, world.bus, Rules(prices=PRICES), clock=clock)
    claimed = await worker_with_a_task(world)
    await watch_for(watch, clock, seconds=18)
    clock.now_s += 2

    async def wait_in_vain(*_: object, **__: object) -> bool:
        raise StoreUnavailableError("canceling statement due to statement timeout")

    with monkeypatch.context() as locked:
        locked.setattr(leases, "bury", wait_in_vain)
        with pytest.raises(StoreUnavailableError):
            await watch.look()
    clock.now_s += 2
    await watch.look()
    assert await world.state(claimed.id) is TaskState.QUEUED


async def test_what_a_dead_worker_ran_fails_where_its_owner_wants_no_second_purchase(world: World) -> None:
    claimed = await worker_with_a_task(world, on_uncertain=OnUncertain.FAIL)
    [worker] = await world.live_workers()
    await world.bury(worker.id)
    watch = Watch(world.database, world.bus, Rules(prices=PRICES))
    assert await watch.rescue() == 1
    [task] = await world.ended([claimed.id], limit_s=LIMIT_S)
    assert task.state is TaskState.FAILED


async def test_a_cancel_that_a_dead_worker_missed_ends_its_task(world: World) -> None:
    claimed = await worker_with_a_task(world)
    async with world.database.write() as connection:
        await cancels.cancel(connection, claimed.id, project_id=world.key.project_id, now=datetime.now(UTC))
    [worker] = await world.live_workers()
    await world.bury(worker.id)
    await Watch(world.database, world.bus, Rules(prices=PRICES)).rescue()
    [task] = await world.ended([claimed.id])
    assert (task.state, task.attempts[0].outcome) == (TaskState.CANCELLED, AttemptOutcome.UNCERTAIN)


async def test_a_process_that_froze_in_the_announcers_turn_does_not_keep_it(
    postgres_world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(sessions, "UNSENT_AFTER_MS", 0)
    world = postgres_world
    watch = Watch(world.database, world.bus, Rules(prices=PRICES))
    with contextlib.suppress(StoreUnavailableError):
        async with announce.turn(world.database) as frozen:
            assert frozen is not None
            driver = (await frozen.get_raw_connection()).driver_connection
            assert driver is not None
            await driver.prepare("SELECT $1::int")  # and no Sync
            await watch.look()
            async with announce.turn(world.database) as connection:
                assert connection is not None
    assert "their processes stand still" in caplog.text
