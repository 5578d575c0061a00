"""Tasks that wait for a route that nobody can call are sent to their model's next one by the beat."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, cast
from uuid import UUID

import pytest

from tests.store import seeds
from tests.store.ledgers import differing
from tests.worker.test_announcer import Told, a_worker
from tests.worker.world import BULK, INTERACTIVE, KEYS, PRICES, ROUTE, World, beat_of, until, zhipu
from tollgate.broker.publisher import Publisher
from tollgate.domain import reach
from tollgate.domain.routing import Catalog, Cause, Model, Route
from tollgate.domain.states import AttemptOutcome, Priority, TaskState
from tollgate.store import leases, receipts
from tollgate.store.receipts import Receipt
from worker.announcer import Announcer
from worker.billing import Rules
from worker.rerouting import Mover

SECOND, THIRD = "vllm/glm-4.7", "other/glm-4.7"
STUCK, WELL = (0, 0, True), (20, 30, False)


def rules_of(*routes: str, **of_model: Any) -> Rules:
    made = tuple(Route(upstream=route.partition("/")[0], model="glm-4.7") for route in routes)
    model = Model(name="glm-4.7", routes=made, aliases=("glm",), **of_model)
    specs = {route.upstream: replace(zhipu("http://127.0.0.1:9"), name=route.upstream) for route in made}
    return Rules(prices=PRICES, catalog=Catalog(upstreams=specs, models={model.name: model}))


def announcer_of(world: World, rules: Rules) -> tuple[Announcer, Told]:
    told = Told()
    return Announcer(world.database, cast(Publisher, told), rules=rules, mover=Mover(world.database, rules)), told


async def routes_of(world: World, ids: list[UUID]) -> dict[str, int]:
    """Route -> how many of `ids`."""
    routes = [(await seeds.row(world.database, task_id)).route for task_id in ids]
    return {route: routes.count(route) for route in set(routes)}


async def queue(world: World, count: int, **changes: Any) -> list[UUID]:
    return await world.queue(*(f"text {n}" for n in range(count)), **{"announced_at": None, **changes})


async def test_tasks_of_a_stuck_route_go_to_the_next_and_are_told_there(world: World) -> None:
    await a_worker(world, {ROUTE: STUCK, SECOND: WELL})
    announcer, told = announcer_of(world, rules_of(ROUTE, SECOND))
    ids = await queue(world, 10)
    assert await announcer.announce() == 10
    assert await routes_of(world, ids) == {SECOND: 10}
    assert sorted(told.ids) == sorted(ids)
    rows = [await seeds.row(world.database, task_id) for task_id in ids]
    assert {(row.attempt, row.refused_attempts, row.fence, row.tries) for row in rows} == {(1, 0, 0, 0)}
    assert await announcer.announce() == 0, "they are told, and trusted for a while"
    assert await differing(world.database) == {}


@pytest.mark.parametrize(
    ("load", "changes", "routes"),
    [
        ({ROUTE: WELL, SECOND: WELL}, {}, (ROUTE, SECOND)),
        ({}, {}, (ROUTE, SECOND)),
        ({ROUTE: STUCK, SECOND: STUCK}, {}, (ROUTE, SECOND)),
        ({ROUTE: STUCK}, {}, (ROUTE,)),
        ({ROUTE: STUCK}, {"fallback_on": frozenset({Cause.OVERLOAD, Cause.OUTAGE})}, (ROUTE, SECOND)),
        ({ROUTE: STUCK}, {"fallback_on": frozenset()}, (ROUTE, SECOND)),
    ],
    ids=["called", "not met", "all stuck", "one route", "not on pauses", "never"],
)
async def test_where_there_is_nowhere_to_go_tasks_stay_and_are_told_as_ever(
    world: World, load: Mapping[str, tuple[int, int, bool]], changes: dict[str, Any], routes: tuple[str, ...]
) -> None:
    await a_worker(world, load)
    announcer, told = announcer_of(world, rules_of(*routes, **changes))
    ids = await queue(world, 1)
    assert await announcer.announce() == 1
    assert (await routes_of(world, ids), told.ids) == ({ROUTE: 1}, ids)


async def test_one_worker_that_can_call_a_route_keeps_its_tasks_there(world: World) -> None:
    await a_worker(world, {ROUTE: STUCK, SECOND: WELL})
    await a_worker(world, {ROUTE: WELL, SECOND: WELL})
    announcer, _ = announcer_of(world, rules_of(ROUTE, SECOND))
    ids = await queue(world, 3)
    await announcer.announce()
    assert await routes_of(world, ids) == {ROUTE: 3}


async def test_stuck_routes_are_stepped_over_and_aliases_are_the_models_names(world: World) -> None:
    await a_worker(world, {ROUTE: STUCK, SECOND: STUCK, THIRD: WELL})
    announcer, _ = announcer_of(world, rules_of(ROUTE, SECOND, THIRD))
    ids = await queue(world, 2, model="glm")
    await announcer.announce()
    assert await routes_of(world, ids) == {THIRD: 2}


async def test_no_more_are_moved_than_the_fallback_can_take(world: World) -> None:
    """What still waits when its own route is back stays with it."""
    await a_worker(world, {ROUTE: STUCK, SECOND: (0, 1, False)})
    announcer, _ = announcer_of(world, rules_of(ROUTE, SECOND))
    ids = await queue(world, 20, lane=BULK)
    await announcer.announce()
    assert await routes_of(world, ids) == {ROUTE: 12, SECOND: 8}


async def test_projects_share_the_moves(world: World) -> None:
    await a_worker(world, {ROUTE: STUCK, SECOND: (0, 1, False)})
    announcer, _ = announcer_of(world, rules_of(ROUTE, SECOND))
    first = await queue(world, 20, feed=UUID(int=1))
    second = await queue(world, 20, feed=UUID(int=2))
    await announcer.announce()
    assert (await routes_of(world, first))[SECOND] == (await routes_of(world, second))[SECOND] == 4


async def test_a_refused_attempt_is_closed_with_what_was_said_of_it(world: World) -> None:
    [task_id] = await queue(world, 1)
    [task] = await seeds.claim(world.database, task_id, now=datetime.now(UTC))
    refused = seeds.refusal(task, error_code="1113", error_message="no balance", counts_as_try=False, not_before=None)
    await seeds.settle(world.database, refused)
    await a_worker(world, {ROUTE: STUCK, SECOND: WELL})
    announcer, _ = announcer_of(world, rules_of(ROUTE, SECOND))
    await announcer.announce()
    moved = await world.task(task_id)
    [attempt] = moved.attempts
    assert (moved.route, attempt.outcome) == (SECOND, AttemptOutcome.FAILED)
    assert (attempt.error_code, attempt.error_message) == ("1113", "no balance")
    assert (await seeds.row(world.database, task_id)).refused_attempts == 1
    assert await differing(world.database) == {}


async def test_what_the_upstream_has_is_not_left_and_holds_up_nobody(world: World) -> None:
    ids = await queue(world, 2, mode="async")
    [task] = await seeds.claim(world.database, ids[0], now=datetime.now(UTC))
    async with world.database.write() as connection:
        receipt = Receipt(
            task_id=task.id, attempt=1, upstream_id="t-1", credential="KEY_A", price_id=None,
            possible_cost_nano=1, possible_tokens=1,
        )  # fmt: skip
        await receipts.keep(connection, [receipt])
    await seeds.settle(world.database, seeds.refusal(task, not_before=None))
    await a_worker(world, {ROUTE: STUCK, SECOND: (0, 1, False)})
    announcer, _ = announcer_of(world, rules_of(ROUTE, SECOND))
    for _ in range(3):
        await announcer.announce()
    assert [(await seeds.row(world.database, i)).route for i in ids] == [ROUTE, SECOND]


async def test_a_task_is_moved_or_claimed_but_never_both(postgres_world: World) -> None:
    """Whoever is second finds it taken; no task is lost, and none has an attempt at the wrong upstream."""
    world = postgres_world
    mover = Mover(world.database, rules_of(ROUTE, SECOND))
    ids = await queue(world, 60)

    async def claim(some: list[UUID]) -> list[Any]:
        return await seeds.claim(world.database, *some, now=datetime.now(UTC))

    batches = [ids[n : n + 10] for n in range(0, 60, 10)]
    async with asyncio.TaskGroup() as group:
        for batch in batches:
            group.create_task(mover.move(batch, stuck={ROUTE}))
            group.create_task(claim(batch))
    for task_id in ids:
        row, task = await seeds.row(world.database, task_id), await world.task(task_id)
        assert row.route in (ROUTE, SECOND)
        assert [f"{attempt.upstream}/glm-4.7" for attempt in task.attempts] in ([], [row.route])
        assert (row.state == TaskState.RUNNING) == bool(task.attempts)


async def test_the_beat_moves_what_waits_for_an_upstream_without_balance(world: World) -> None:
    """Real workers, all parts: the first is refused, the others wait, and all end at the fallback."""
    first = await world.simulator(refuse_keys={KEYS["KEY_A"]: "1113"})
    second = await world.simulator()
    rules = rules_of(ROUTE, SECOND)
    engine = await world.engine(
        zhipu(first.base_url), zhipu(second.base_url, keys=("KEY_B",), name="vllm"), rules=rules
    )
    told = Told()
    beat = beat_of(world.database, world.bus, told, rules=rules)
    probe = await world.queue("the first to be refused")
    engine.offer(INTERACTIVE, {ROUTE: probe})
    await world.ended(probe)
    waiting = await queue(world, 20)
    engine.offer(INTERACTIVE, {ROUTE: waiting})

    async def stuck() -> bool:
        async with world.database.read() as connection:
            return ROUTE in reach.stuck(await leases.alive(connection), rules.catalog, Priority.INTERACTIVE)

    await until(stuck)

    async def moved() -> bool:
        await beat.round()
        engine.offer(INTERACTIVE, {SECOND: told.ids})
        return await routes_of(world, waiting) == {SECOND: 20}

    await until(moved)
    done = await world.ended(waiting)
    assert {task.state for task in done} == {TaskState.SUCCEEDED}
    assert {len(task.attempts) for task in done} == {1}
    assert first.stats.refusals["1113"] == 1
    assert await differing(world.database) == {}
