"""Who is told what: due tasks, in windows by what their route settles, on lanes that somebody serves."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import cast
from uuid import UUID

import pytest

from tests.store import seeds
from tests.worker.world import BULK, INTERACTIVE, PRICES, ROUTE, World, beat_of, until
from tollgate.broker.publisher import Publisher
from tollgate.domain.ids import new_id
from tollgate.domain.states import AttemptOutcome, TaskState
from tollgate.store import leases
from worker.announcer import UNKNOWN_ROUTE_WINDOW, Announcer
from worker.billing import Rules


class Told:
    """In the publisher's place: what was handed to it."""

    def __init__(self) -> None:
        self.ids: list[UUID] = []
        self.lanes: set[str] = set()

    def announce(self, lane: str, hints: Mapping[str, list[UUID]]) -> None:
        self.lanes.add(lane)
        for ids in hints.values():
            self.ids.extend(ids)


async def a_worker(
    world: World,
    load: Mapping[str, tuple[int, int] | tuple[int, int, bool]] | None = None,
    *,
    lanes: tuple[str, ...] = (INTERACTIVE, BULK),
) -> UUID:
    worker_id = new_id()
    async with world.database.write() as connection:
        await leases.register(connection, worker_id, name="w", lanes=lanes, now=datetime.now(UTC))
        await leases.renew(
            connection,
            worker_id,
            load={route: leases.RouteLoad(*one) for route, one in (load or {}).items()},
            now=datetime.now(UTC),
        )
    return worker_id


def announcer_of(world: World, *, clock: Callable[[], float] = time.monotonic) -> tuple[Announcer, Told]:
    told = Told()
    return Announcer(world.database, cast(Publisher, told), rules=Rules(prices=PRICES), clock=clock), told


async def test_due_tasks_are_told_once_until_their_hint_is_old(world: World) -> None:
    await a_worker(world)
    fresh = await world.queue("one", "two", announced_at=None)
    old = await world.queue("three", announced_at=datetime.now(UTC) - timedelta(seconds=16))
    await world.queue("four", announced_at=datetime.now(UTC) - timedelta(seconds=10))
    announcer, told = announcer_of(world)
    assert await announcer.announce() == 3
    assert set(told.ids) == {*fresh, *old}
    assert await announcer.announce() == 0


async def test_a_lane_that_nobody_serves_is_left_in_peace(world: World) -> None:
    await a_worker(world, lanes=(BULK,))
    await world.queue("one", announced_at=None)
    bulk = await world.queue("two", announced_at=None, lane=BULK)
    announcer, told = announcer_of(world)
    await announcer.announce()
    assert (told.ids, told.lanes) == (bulk, {BULK})


@pytest.mark.parametrize(
    ("load", "window"),
    [
        ((100, 3), 40),
        ((5, 20), 40),
        ((0, 0), 1),
    ],
)
async def test_the_window_is_what_a_route_settles_in_two_rounds_or_twice_its_free_slots(
    world: World, load: tuple[int, int], window: int
) -> None:
    await a_worker(world, {ROUTE: load})
    await world.queue(*(f"question {n}" for n in range(60)), announced_at=None)
    announcer, _ = announcer_of(world)
    assert await announcer.announce() == window


async def test_a_full_route_does_not_narrow_another(world: World) -> None:
    await a_worker(world, {ROUTE: (0, 0), "zhipu/other": (0, 10)})
    await world.queue(*(f"question {n}" for n in range(30)), announced_at=None)
    other = await world.queue(*(f"question {n}" for n in range(10)), announced_at=None, route="zhipu/other")
    announcer, told = announcer_of(world)
    await announcer.announce()
    assert set(other) <= set(told.ids)
    assert len(told.ids) == 11


async def test_a_route_that_no_worker_has_met_gets_a_first_window(world: World) -> None:
    await a_worker(world)
    await world.queue(*(f"question {n}" for n in range(UNKNOWN_ROUTE_WINDOW + 5)), announced_at=None)
    announcer, _ = announcer_of(world)
    assert await announcer.announce() == UNKNOWN_ROUTE_WINDOW


async def test_a_task_whose_deadline_passed_while_it_waited_expires(world: World) -> None:
    past = datetime.now(UTC) - timedelta(seconds=1)
    [late] = await world.queue("late", deadline=past, retry_until=past)
    [ready] = await world.queue("in time")
    announcer, _ = announcer_of(world)
    assert await announcer.expire() == [late]
    task = await world.task(late)
    assert (task.state, task.error_code, task.attempts) == (TaskState.EXPIRED, "expired", ())
    assert await world.state(ready) is TaskState.QUEUED
    assert (await world.accounts()).tasks_failed == 1


async def test_a_refused_attempt_of_an_expired_task_is_abandoned(world: World) -> None:
    soon = datetime.now(UTC) + timedelta(seconds=0.2)
    [task_id] = await world.queue("hello", deadline=soon, retry_until=soon)
    [claimed] = await seeds.claim(world.database, task_id, now=datetime.now(UTC))
    await seeds.settle(world.database, seeds.refusal(claimed), now=datetime.now(UTC))
    announcer, _ = announcer_of(world)

    async def expired() -> list[UUID]:
        return await announcer.expire()

    assert await until(expired) == [task_id]
    assert (await world.task(task_id)).attempts[0].outcome is AttemptOutcome.ABANDONED


async def test_a_round_of_the_beat_buries_expires_and_announces(world: World) -> None:
    await a_worker(world)
    told = Told()
    beat = beat_of(world.database, world.bus, told)
    past = datetime.now(UTC) - timedelta(seconds=1)
    [late] = await world.queue("late", deadline=past, retry_until=past)
    [due] = await world.queue("due", announced_at=None)
    await beat.round()
    [task] = await world.ended([late])
    assert (task.state, told.ids) == (TaskState.EXPIRED, [due])
