"""A task leaves the route that fails it for its model's next one: who is asked, what is closed, what is billed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, cast
from uuid import UUID

import pytest
from aiohttp import web

from tests.store import seeds
from tests.store.ledgers import differing
from tests.worker.async_cloud import AsyncCloud, done, fails, numbered, refused
from tests.worker.world import HASTY, INTERACTIVE, KEYS, PRICES, ROUTE, World, until, zhipu
from tollgate.broker.publisher import Publisher
from tollgate.domain.prices import PriceTable, Tier
from tollgate.domain.routing import Catalog, Cause, Model, Route
from tollgate.domain.states import AttemptOutcome, OnUncertain, TaskState
from tollgate.simulator import Faults, Simulator, SimulatorSettings
from tollgate.store import pauses as pause_store
from tollgate.store import price_list
from tollgate.store.schema import usage_hourly
from tollgate.store.tasks import Task
from worker import slots
from worker.announcer import Announcer
from worker.billing import Rules
from worker.engine import Engine
from worker.rerouting import Mover
from worker.upstreams.chat import ChatUpstream

SECOND = "vllm/glm-4.7"
THERE = replace(seeds.PRICE, upstream="vllm", tiers=(Tier(name="all", input_nano=10**9, output_nano=10**9),))
BOTH = PriceTable([seeds.PRICE, THERE])
FIRST_FAILED = AttemptOutcome.FAILED


async def second_of(world: World, **settings: Any) -> Simulator:
    """The fallback's upstream, with a price of its own, there and here."""
    async with world.database.write() as connection:
        await price_list.publish(connection, [THERE], now=seeds.NOW)
    prices = PriceTable([replace(THERE, upstream="zhipu")])
    return await world.stack.enter_async_context(Simulator(SimulatorSettings(**settings), prices=prices))


async def engine_of(
    world: World,
    first: str,
    second: str,
    *,
    keys: tuple[str, ...] = ("KEY_A",),
    first_spec: dict[str, Any] | None = None,
    second_route: dict[str, Any] | None = None,
    beside: str | None = None,
    between: str | None = None,
    **of_model: Any,
) -> Engine:
    """A running engine whose model runs at `first`, and at `second` where that fails. `beside`: the name of
    another, which runs at `first` only. `between`: the name there of a second route of `first`."""
    model = Model(
        name="glm-4.7",
        routes=(
            Route(upstream="zhipu", model="glm-4.7"),
            *([Route(upstream="zhipu", model=between)] if between else []),
            Route(**{"upstream": "vllm", "model": "glm-4.7", **(second_route or {})}),
        ),
        **of_model,
    )
    specs = (zhipu(first, keys=keys, **(first_spec or {})), zhipu(second, keys=("KEY_B",), name="vllm"))
    models = [model, *([Model(name=beside, routes=model.routes[:1])] if beside else [])]
    catalog = Catalog(upstreams={spec.name: spec for spec in specs}, models={one.name: one for one in models})
    return await world.engine(*specs, rules=Rules(prices=BOTH, policy=HASTY, catalog=catalog))


class Telling:
    """In the publisher's place: straight to the engine."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def announce(self, lane: str, hints: Mapping[str, list[UUID]]) -> None:
        self._engine.offer(lane, hints)


def announcer_to(world: World, engine: Engine) -> Announcer:
    """A beat's, which moves what is stuck."""
    mover = Mover(world.database, engine.runner._rules)
    return Announcer(world.database, cast(Publisher, Telling(engine)), rules=Rules(prices=PRICES), mover=mover)


def story(task: Task) -> list[tuple[str, AttemptOutcome, int]]:
    """Upstream, outcome and sends of each attempt."""
    assert [attempt.number for attempt in task.attempts] == list(range(1, len(task.attempts) + 1))
    return [(attempt.upstream, attempt.outcome, attempt.tries) for attempt in task.attempts]


async def first_of(world: World, code: str = "1305") -> Simulator:
    """The first upstream, which refuses every call so."""
    return await world.simulator(rate_limit_code=code, faults=Faults(rate_limit=1.0))


async def in_books(world: World) -> None:
    """Every sum is what its rows say."""
    assert await differing(world.database) == {}


async def refused_address() -> str:
    """Where nobody listens any more."""
    async with Simulator(SimulatorSettings(), prices=PRICES) as gone:
        return gone.base_url


@pytest.mark.parametrize("code", ["1305", "1312"])
async def test_an_overloaded_route_is_left_after_two_tries(world: World, code: str) -> None:
    first, second = await first_of(world, code), await second_of(world)
    engine = await engine_of(world, first.base_url, second.base_url)
    [task] = await world.run(engine, "hello")
    assert (task.state, task.route, task.tries) == (TaskState.SUCCEEDED, SECOND, 2)
    assert story(task) == [("zhipu", FIRST_FAILED, 2), ("vllm", AttemptOutcome.SUCCEEDED, 1)]
    refused, answered = task.attempts
    assert (refused.cost_nano, refused.possible_cost_nano, refused.error_code) == (None, None, code)
    assert answered.price_id == THERE.id
    assert answered.cost_nano == second.bill.cost_nano > 0
    assert first.bill.charges == 0
    await in_books(world)


async def test_a_rate_limit_does_not_move_a_task_unless_its_model_says_so(world: World) -> None:
    first, second = await world.simulator(), await second_of(world)
    stays = await engine_of(world, first.base_url, second.base_url)
    [task] = await world.run(stays, "[[fault:5x:429]] hello")
    assert story(task) == [("zhipu", AttemptOutcome.SUCCEEDED, 6)]
    await stays.stop(drain_timeout_s=0)
    goes = await engine_of(
        world, first.base_url, second.base_url, fallback_on=frozenset({Cause.RATE_LIMIT}), fallback_after=1
    )
    [task] = await world.run(goes, "[[fault:5x:429]] hallo")
    assert task.attempts[0].upstream == "zhipu"
    assert task.attempts[1].upstream == "vllm"


async def test_an_upstream_that_is_gone_is_left_and_billed_at_the_fallback(world: World) -> None:
    second = await second_of(world)
    engine = await engine_of(world, await refused_address(), second.base_url)
    done = await world.run(engine, "one", "two", "three")
    assert [story(task) for task in done] == [[("zhipu", FIRST_FAILED, 2), ("vllm", AttemptOutcome.SUCCEEDED, 1)]] * 3
    assert second.bill.charges == 3
    assert await world.cost_nano() == second.bill.cost_nano == (await world.accounts()).cost_nano
    by_upstream: Counter[str] = Counter()
    for row in await seeds.rows_of(world.database, usage_hourly):
        by_upstream[row.upstream] += row.cost_nano
    assert dict(by_upstream) == {"zhipu": 0, "vllm": second.bill.cost_nano}
    await in_books(world)


async def test_while_a_route_is_down_tasks_are_not_sent_there_to_fail(world: World) -> None:
    """The first tell that it is; what waits is moved by the beat, and not one of them pays for it with its time."""
    second = await second_of(world)
    engine = await engine_of(world, await refused_address(), second.base_url)
    announcer = announcer_to(world, engine)
    ids = await world.queue(*(f"text {i}" for i in range(100)))
    engine.offer(INTERACTIVE, {ROUTE: ids})

    async def ended() -> bool:
        await announcer.announce()
        return world.ended_ids.issuperset(ids)

    await until(ended)
    tasks = [await world.task(task_id) for task_id in ids]
    assert {(task.state, task.route) for task in tasks} == {(TaskState.SUCCEEDED, SECOND)}
    assert second.bill.charges == 100
    assert sum(attempt.tries for task in tasks for attempt in task.attempts if attempt.upstream == "zhipu") < 60
    await in_books(world)


async def test_where_all_routes_are_gone_tasks_are_tried_until_their_last_retry(world: World) -> None:
    """None is kept waiting for a route that is down."""
    engine = await engine_of(world, await refused_address(), await refused_address())
    announcer = announcer_to(world, engine)
    last = datetime.now(UTC) + timedelta(seconds=2)
    ids = await world.queue(*(f"text {i}" for i in range(30)), retry_until=last)
    engine.offer(INTERACTIVE, {ROUTE: ids})

    async def ended() -> bool:
        await announcer.announce()
        return world.ended_ids.issuperset(ids)

    await until(ended, limit_s=60)
    assert {(await world.state(task_id)) for task_id in ids} == {TaskState.FAILED}
    await in_books(world)


async def test_a_route_that_was_down_is_used_again_once_it_answers(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Its ten seconds would be this test's.
    monkeypatch.setattr(slots, "DOWN_S", 0.1)
    first, second = await world.simulator(faults=Faults(server_error=1.0)), await second_of(world)
    engine = await engine_of(world, first.base_url, second.base_url, fallback_after=1)
    for n in range(slots.DOWN_AFTER):
        await world.run(engine, f"text {n}")
    first.change(faults={"server_error": 0.0})

    async def back() -> bool:
        return not engine._capacity.down(ROUTE)

    await until(back)
    assert engine._capacity.slots(ROUTE).limit == 1
    [task] = await world.run(engine, "once more")
    assert task.route == ROUTE
    assert engine._capacity.slots(ROUTE).limit > 1


async def test_deadlines_that_are_too_short_close_no_route(world: World) -> None:
    """Anybody may send such tasks: that must not move everybody else's."""
    first, second = await world.simulator(latency_s=60), await second_of(world)
    engine = await engine_of(world, first.base_url, second.base_url, fallback_after=1)
    soon = datetime.now(UTC) + timedelta(seconds=5)
    ids = await world.queue(*(f"text {i}" for i in range(2 * slots.DOWN_AFTER)), deadline=soon, retry_until=soon)
    engine.offer(INTERACTIVE, {ROUTE: ids})
    await world.ended(ids)
    assert first.stats.requests["chat"] >= slots.DOWN_AFTER, "they were sent"
    assert not engine._capacity.down(ROUTE)


async def test_a_route_that_is_a_models_only_one_is_never_closed(world: World) -> None:
    second = await second_of(world)
    engine = await engine_of(world, await refused_address(), second.base_url, fallback_after=1, beside="glm-only")
    for n in range(slots.DOWN_AFTER):
        await world.run(engine, f"text {n}")
    assert not engine._capacity.down(ROUTE)


async def test_a_try_that_may_have_been_billed_closes_as_uncertain_before_the_task_goes(world: World) -> None:
    first, second = await world.simulator(faults=Faults(server_error=1.0)), await second_of(world)
    engine = await engine_of(world, first.base_url, second.base_url)
    [task] = await world.run(engine, "hello")
    uncertain = AttemptOutcome.UNCERTAIN
    assert story(task) == [("zhipu", uncertain, 1), ("zhipu", uncertain, 1), ("vllm", AttemptOutcome.SUCCEEDED, 1)]
    assert [attempt.possible_cost_nano is not None for attempt in task.attempts] == [True, True, False]
    await in_books(world)


async def test_on_uncertain_fail_is_not_bought_elsewhere(world: World) -> None:
    first, second = await world.simulator(faults=Faults(cut=1.0)), await second_of(world)
    engine = await engine_of(world, first.base_url, second.base_url, fallback_after=1)
    [task] = await world.run(engine, "hello", on_uncertain=OnUncertain.FAIL)
    assert (task.state, story(task)) == (TaskState.FAILED, [("zhipu", AttemptOutcome.UNCERTAIN, 1)])
    assert second.stats.requests == Counter()


async def test_a_fallback_that_forbids_a_second_purchase_is_heeded(world: World) -> None:
    first, second = await first_of(world), await second_of(world, faults=Faults(cut=1.0))
    engine = await engine_of(world, first.base_url, second.base_url, second_route={"on_uncertain": OnUncertain.FAIL})
    [task] = await world.run(engine, "hello")
    assert task.state is TaskState.FAILED
    assert story(task) == [("zhipu", FIRST_FAILED, 2), ("vllm", AttemptOutcome.UNCERTAIN, 1)]
    assert second.bill.charges == 1


async def test_refusals_before_a_move_are_no_purchases(world: World) -> None:
    """Four may be bought: however often the task went to and fro before."""
    first, second = await first_of(world), await second_of(world, rate_limit_code="1305", faults=Faults(rate_limit=1.0))
    engine = await engine_of(world, first.base_url, second.base_url, fallback_after=1)
    [task_id] = await world.queue("hello")
    engine.offer(INTERACTIVE, {ROUTE: [task_id]})

    async def far_gone() -> bool:
        return bool((await seeds.row(world.database, task_id)).attempt > 6)

    await until(far_gone)
    second.change(faults={"rate_limit": 0.0})
    [task] = await world.ended([task_id])
    row = await seeds.row(world.database, task_id)
    assert (task.state, row.refused_attempts) == (TaskState.SUCCEEDED, row.attempt - 1)
    assert [attempt.upstream for attempt in task.attempts][:5] == ["zhipu", "vllm", "zhipu", "vllm", "zhipu"]
    assert {attempt.outcome for attempt in task.attempts[:-1]} == {FIRST_FAILED}
    await in_books(world)


async def test_what_was_bought_before_a_move_counts_among_the_purchases(world: World) -> None:
    """Of four, two at the first and two at the second."""
    broken = Faults(server_error=1.0)
    first, second = await world.simulator(faults=broken), await second_of(world, faults=broken)
    engine = await engine_of(world, first.base_url, second.base_url)
    [task] = await world.run(engine, "hello")
    doubts = [(upstream, AttemptOutcome.UNCERTAIN, 1) for upstream in ("zhipu", "zhipu", "vllm", "vllm")]
    assert (task.state, story(task)) == (TaskState.FAILED, doubts)
    await in_books(world)


@pytest.mark.parametrize("code", ["1113", "1003"])
async def test_a_route_whose_only_key_is_refused_is_left_at_once(world: World, code: str) -> None:
    first, second = await world.simulator(refuse_keys={KEYS["KEY_A"]: code}), await second_of(world)
    engine = await engine_of(world, first.base_url, second.base_url)
    [task] = await world.run(engine, "hello")
    assert (task.state, task.tries) == (TaskState.SUCCEEDED, 0)
    assert story(task) == [("zhipu", FIRST_FAILED, 1), ("vllm", AttemptOutcome.SUCCEEDED, 1)]
    assert set(await world.paused()) == {"KEY_A"}
    await in_books(world)


async def test_a_route_whose_only_key_is_refused_is_not_left_for_another_of_its_upstream(world: World) -> None:
    first, second = await world.simulator(refuse_keys={KEYS["KEY_A"]: "1113"}), await second_of(world)
    engine = await engine_of(world, first.base_url, second.base_url, between="glm-4-air")
    [task] = await world.run(engine, "hello")
    assert [f"{a.upstream}/{a.upstream_model}" for a in task.attempts] == [ROUTE, SECOND]


async def test_a_route_with_another_key_is_not_left(world: World) -> None:
    first, second = await world.simulator(refuse_keys={KEYS["KEY_A"]: "1113"}), await second_of(world)
    engine = await engine_of(world, first.base_url, second.base_url, keys=("KEY_A", "KEY_B"))
    [task] = await world.run(engine, "hello")
    assert (task.state, task.route) == (TaskState.SUCCEEDED, ROUTE)


async def test_a_days_limit_is_not_waited_for(world: World) -> None:
    first, second = await first_of(world, "1304"), await second_of(world)
    engine = await engine_of(world, first.base_url, second.base_url)
    [task] = await world.run(engine, "hello")
    assert story(task) == [("zhipu", FIRST_FAILED, 1), ("vllm", AttemptOutcome.SUCCEEDED, 1)]


async def test_where_the_fallback_has_no_key_the_task_stays(world: World) -> None:
    first, second = await world.simulator(rate_limit_code="1305"), await second_of(world)
    engine = await engine_of(world, first.base_url, second.base_url, fallback_after=1)
    await _pause(world, "vllm", "KEY_B")
    await until(lambda: _knows(engine, SECOND))
    [task] = await world.run(engine, "[[fault:3x:429]] hello")
    assert story(task) == [("zhipu", AttemptOutcome.SUCCEEDED, 4)]


async def test_no_move_starts_after_the_last_retry(world: World) -> None:
    first, second = await first_of(world), await second_of(world)
    engine = await engine_of(world, first.base_url, second.base_url, fallback_after=1)
    over = datetime.now(UTC) - timedelta(seconds=1)
    [task] = await world.run(engine, "hello", retry_until=over)
    assert (task.state, story(task)) == (TaskState.FAILED, [("zhipu", FIRST_FAILED, 1)])
    assert second.stats.requests == Counter()


async def test_a_call_that_the_upstream_has_by_an_id_is_not_left(world: World) -> None:
    """Its polls are refused: it is fetched all the same, and paid once."""
    second, gets = await second_of(world), iter((refused(503, "1305"), refused(503, "1305")))
    async with AsyncCloud(numbered, lambda _: next(gets, None) or done()) as first:
        engine = await engine_of(world, first.base_url, second.base_url, fallback_after=1)
        [task] = await world.run(engine, "hello", mode="async")
    assert (task.state, story(task)) == (TaskState.SUCCEEDED, [("zhipu", AttemptOutcome.SUCCEEDED, 1)])
    assert len(first.sent) == 1
    assert second.stats.requests == Counter()


@pytest.mark.parametrize("code", ["1305", "1113"])
async def test_a_submit_that_may_be_there_is_not_left_though_its_repeat_is_refused(world: World, code: str) -> None:
    second = await second_of(world)

    def submit(turn: int) -> web.Response | None:
        return (None, refused(429, code))[turn - 1] if turn < 3 else numbered(turn)

    async with AsyncCloud(submit, lambda _: done()) as first:
        engine = await engine_of(world, first.base_url, second.base_url, fallback_after=1)
        [task_id] = await world.queue("hello", mode="async")
        engine.offer(INTERACTIVE, {ROUTE: [task_id]})

        async def refused_twice() -> bool:
            row = await seeds.row(world.database, task_id)
            return row.state == TaskState.SUCCEEDED or (len(first.sent) >= 2 and bool(row.state == TaskState.QUEUED))

        await until(refused_twice)
        assert (await world.task(task_id)).route == ROUTE
    assert second.stats.requests == Counter()


async def test_a_call_that_failed_there_may_be_bought_elsewhere(world: World) -> None:
    second = await second_of(world)
    async with AsyncCloud(numbered, lambda _: fails("1234")) as first:
        engine = await engine_of(world, first.base_url, second.base_url, fallback_after=1)
        [task] = await world.run(engine, "hello", mode="async")
    assert task.state is TaskState.SUCCEEDED
    assert story(task) == [("zhipu", AttemptOutcome.UNCERTAIN, 1), ("vllm", AttemptOutcome.SUCCEEDED, 1)]
    assert [attempt.mode for attempt in task.attempts] == ["async", "direct"]
    await in_books(world)


async def test_a_fault_of_the_worker_moves_nothing(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(*_: object) -> None:
        raise RuntimeError("a bug")

    # A bug that nobody knows yet has no other way in.
    monkeypatch.setattr(ChatUpstream, "call", broken)
    engine = await engine_of(world, "http://127.0.0.1:9", "http://127.0.0.1:9")
    [task] = await world.run(engine, "hello")
    assert {attempt.upstream for attempt in task.attempts} == {"zhipu"}


async def _pause(world: World, upstream: str, credential: str) -> None:
    now = datetime.now(UTC)
    async with world.database.write() as connection:
        await pause_store.pause(
            connection, upstream, credential=credential, reason="1113", now=now, until=now + timedelta(minutes=1)
        )


async def _knows(engine: Engine, route: str) -> bool:
    return engine._capacity.blocked(route)
