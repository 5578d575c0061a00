"""Submit and poll: a paid answer is fetched, not bought again, whoever held its task when it was submitted."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest

from tests.store import seeds
from tests.worker.world import HASTY, INTERACTIVE, KEYS, LIMIT_S, PRICES, ROUTE, World, until, zhipu
from tollgate.broker.bus import CANCEL
from tollgate.domain.ids import new_id
from tollgate.domain.states import AttemptOutcome, OnUncertain, TaskState
from tollgate.simulator import Simulator
from tollgate.store import cancels, leases
from tollgate.store.schema import attempts
from tollgate.store.tasks import Task
from worker import polling
from worker.billing import Rules
from worker.engine import Engine
from worker.upstreams.upstream import Call
from worker.upstreams.zhipu import ZhipuUpstream
from worker.watch import Watch

ASYNC = {"mode": "async"}


def outcomes_of(task: Task) -> list[AttemptOutcome]:
    return [attempt.outcome for attempt in task.attempts]


async def rescue(world: World, engine: Engine) -> None:
    """As if the engine's worker had died: its tasks go back to the queue."""
    await world.bury(engine.lease.worker_id)
    await Watch(world.database, world.bus, Rules(prices=PRICES)).rescue()


async def upstream_ids(world: World) -> list[str]:
    return [row.upstream_id for row in await seeds.rows_of(world.database, attempts) if row.upstream_id]


async def until_submitted(world: World, count: int = 1) -> list[str]:
    async def known() -> list[str]:
        found = await upstream_ids(world)
        return found if len(found) >= count else []

    found: list[str] = await until(known)
    return found


async def test_a_task_is_submitted_polled_and_paid_once(world: World) -> None:
    simulator = await world.simulator(latency_s=0.2)
    engine = await world.engine(zhipu(simulator.base_url))
    [task] = await world.run(engine, "hello", **ASYNC)
    assert (task.state, outcomes_of(task)) == (TaskState.SUCCEEDED, [AttemptOutcome.SUCCEEDED])
    [attempt] = task.attempts
    assert (attempt.mode, attempt.possible_cost_nano) == ("async", None)
    assert attempt.upstream_id is not None
    assert simulator.bill.charges == 1
    assert await world.cost_nano() == simulator.bill.cost_nano == (await world.accounts()).cost_nano


async def test_the_upstreams_id_is_committed_before_its_result_is_asked_for(world: World) -> None:
    simulator = await world.simulator(latency_s=30)
    engine = await world.engine(zhipu(simulator.base_url))
    [task_id] = await world.queue("hello", **ASYNC)
    engine.offer(INTERACTIVE, {ROUTE: [task_id]})
    [upstream_id] = await until_submitted(world)
    [row] = await seeds.rows_of(world.database, attempts)
    assert (row.credential, row.outcome) == ("KEY_A", AttemptOutcome.OPEN)
    assert row.possible_cost_nano > 0, "should it never be fetched"
    assert (await world.accounts()).possible_cost_nano == 0, "but it is not booked while it is open"
    assert upstream_id in simulator.cloud.tasks._tasks


async def test_another_worker_polls_on_what_a_dead_one_submitted(postgres_world: World) -> None:
    world = postgres_world
    simulator = await world.simulator(latency_s=1.0)
    first = await world.engine(zhipu(simulator.base_url))
    ids = await world.queue(*(f"text {i}" for i in range(50)), **ASYNC)
    first.offer(INTERACTIVE, {ROUTE: ids})
    await until_submitted(world, 50)
    await rescue(world, first)
    second = await world.engine(zhipu(simulator.base_url))
    second.offer(INTERACTIVE, {ROUTE: ids})
    ended = await world.ended(ids)
    assert {task.state for task in ended} == {TaskState.SUCCEEDED}
    assert [outcomes_of(task) for task in ended] == [[AttemptOutcome.SUCCEEDED]] * 50
    assert simulator.bill.charges == 50
    assert await world.cost_nano() == simulator.bill.cost_nano
    assert (await world.accounts()).attempts_uncertain == 0


@pytest.mark.parametrize("repeat", ["replay", "reject"])
async def test_a_submit_whose_answer_was_lost_is_sent_again_with_its_request_id(world: World, repeat: str) -> None:
    """Replayed, its id is taken; refused with 1231, the purchase is uncertain and a new one is made."""
    simulator = await world.simulator(async_repeat=repeat)
    engine = await world.engine(zhipu(simulator.base_url))
    [task] = await world.run(engine, "[[fault:once:cut]] hello", **ASYNC)
    assert task.state is TaskState.SUCCEEDED
    if repeat == "replay":
        assert outcomes_of(task) == [AttemptOutcome.SUCCEEDED]
        assert simulator.bill.charges == 1
        assert await world.cost_nano() == simulator.bill.cost_nano
    else:
        assert outcomes_of(task) == [AttemptOutcome.UNCERTAIN, AttemptOutcome.SUCCEEDED]
        assert task.attempts[0].error_code == "1231"
        accounts = await world.accounts()
        assert accounts.cost_nano <= simulator.bill.cost_nano <= accounts.cost_nano + accounts.possible_cost_nano


async def test_a_submit_without_an_answer_is_repeated_even_where_nothing_may_be_bought_twice(world: World) -> None:
    simulator = await world.simulator()
    engine = await world.engine(zhipu(simulator.base_url))
    [task] = await world.run(engine, "[[fault:once:cut]] hello", on_uncertain=OnUncertain.FAIL, **ASYNC)
    assert (task.state, outcomes_of(task)) == (TaskState.SUCCEEDED, [AttemptOutcome.SUCCEEDED])
    assert simulator.bill.charges == 1


async def test_submits_that_are_never_answered_run_out_and_stay_uncertain(world: World) -> None:
    simulator = await world.simulator()
    engine = await world.engine(zhipu(simulator.base_url))
    [task] = await world.run(engine, "[[fault:cut]] hello", **ASYNC)
    assert (task.state, outcomes_of(task)) == (TaskState.FAILED, [AttemptOutcome.UNCERTAIN])
    assert task.attempts[0].possible_cost_nano is not None
    assert task.tries == 3, "four sends of one purchase, and the last one ends it"
    assert simulator.bill.charges == 1


async def submitted_by_a_worker_that_dies(world: World, simulator: Simulator) -> UUID:
    """A task whose call the upstream has, under an id that was never committed."""
    worker_id = new_id()
    [task_id] = await world.queue("hello", **ASYNC)
    async with world.database.write() as connection:
        await leases.register(connection, worker_id, name="w", lanes=("cloud",), now=datetime.now(UTC))
    [claimed] = await seeds.claim(world.database, task_id, worker_id=worker_id, now=datetime.now(UTC))
    call = Call(
        endpoint="chat",
        model="glm-4.7",
        body=claimed.body,
        request_id=claimed.upstream_request_id,
        credential="KEY_A",
        timeout_s=5,
        on_sent=lambda: None,
    )
    upstream = ZhipuUpstream(zhipu(simulator.base_url), base_url=simulator.base_url, secrets=KEYS)
    await upstream.submit(call)
    await upstream.close()
    await world.bury(worker_id)
    return task_id


async def test_a_worker_that_died_between_submit_and_commit_leaves_a_request_id_to_repeat(world: World) -> None:
    simulator = await world.simulator(latency_s=0.5)
    task_id = await submitted_by_a_worker_that_dies(world, simulator)
    await Watch(world.database, world.bus, Rules(prices=PRICES, policy=HASTY)).rescue()
    [row] = await seeds.rows_of(world.database, attempts)
    assert (row.outcome, row.unanswered) == (AttemptOutcome.OPEN, 1)
    assert row.possible_cost_nano > 0
    engine = await world.engine(zhipu(simulator.base_url))
    engine.offer(INTERACTIVE, {ROUTE: [task_id]})
    [task] = await world.ended([task_id])
    assert (task.state, outcomes_of(task)) == (TaskState.SUCCEEDED, [AttemptOutcome.SUCCEEDED])
    assert simulator.bill.charges == 1


async def test_a_request_id_to_repeat_is_not_forgotten_when_its_task_is_cancelled(world: World) -> None:
    """The upstream may have the call: it is uncertain, not abandoned."""
    simulator = await world.simulator()
    task_id = await submitted_by_a_worker_that_dies(world, simulator)
    await Watch(world.database, world.bus, Rules(prices=PRICES)).rescue()
    async with world.database.write() as connection:
        await cancels.cancel(connection, task_id, project_id=world.key.project_id, now=datetime.now(UTC))
    task, accounts = await world.task(task_id), await world.accounts()
    assert (task.state, outcomes_of(task)) == (TaskState.CANCELLED, [AttemptOutcome.UNCERTAIN])
    assert accounts.cost_nano <= simulator.bill.cost_nano <= accounts.cost_nano + accounts.possible_cost_nano


@pytest.mark.parametrize("kind", ["rate_limit", "server_error", "garbage", "cut"])
async def test_a_poll_that_fails_is_asked_again_and_costs_nothing(world: World, kind: str) -> None:
    simulator = await world.simulator(fault_polls=True, seed=3)
    engine = await world.engine(zhipu(simulator.base_url))
    simulator.change(faults={}, latency_s=1.5)
    ids = await world.queue(*(f"text {i}" for i in range(8)), **ASYNC)
    engine.offer(INTERACTIVE, {ROUTE: ids})
    await until_submitted(world, 8)
    simulator.change(faults={kind: 0.6})
    ended = await world.ended(ids)
    assert [outcomes_of(task) for task in ended] == [[AttemptOutcome.SUCCEEDED]] * 8
    assert simulator.bill.charges == 8
    assert simulator.stats.faults[kind] > 0


async def test_a_call_that_the_upstream_failed_may_be_billed_and_is_bought_anew(world: World) -> None:
    simulator = await world.simulator()
    engine = await world.engine(zhipu(simulator.base_url))
    [task] = await world.run(engine, "[[fault:once:fail]] hello", **ASYNC)
    assert task.state is TaskState.SUCCEEDED
    assert outcomes_of(task) == [AttemptOutcome.UNCERTAIN, AttemptOutcome.SUCCEEDED]
    assert task.attempts[0].error_code == "1234"


async def test_a_refused_submit_is_final_where_a_direct_call_would_be(world: World) -> None:
    simulator = await world.simulator()
    engine = await world.engine(zhipu(simulator.base_url))
    [task] = await world.run(engine, "[[fault:sensitive]] hello", **ASYNC)
    assert (task.state, task.error_code) == (TaskState.FAILED, "1301")
    assert simulator.bill.charges == 0


async def test_a_result_that_never_comes_ends_at_the_deadline_with_its_possible_cost(world: World) -> None:
    simulator = await world.simulator(latency_s=60)
    engine = await world.engine(zhipu(simulator.base_url))
    end = datetime.now(UTC) + timedelta(seconds=2)
    [task] = await world.run(engine, "hello", deadline=end, retry_until=end, **ASYNC)
    assert (task.state, outcomes_of(task)) == (TaskState.FAILED, [AttemptOutcome.UNCERTAIN])
    assert (await world.accounts()).possible_cost_nano == task.attempts[0].possible_cost_nano
    assert task.attempts[0].possible_cost_nano


async def test_a_cancelled_poll_is_uncertain_with_its_possible_cost(world: World) -> None:
    simulator = await world.simulator(latency_s=60)
    engine = await world.engine(zhipu(simulator.base_url))
    [task_id] = await world.queue("hello", **ASYNC)
    engine.offer(INTERACTIVE, {ROUTE: [task_id]})
    await until_submitted(world)
    async with world.database.write() as connection:
        await cancels.cancel(connection, task_id, project_id=world.key.project_id, now=datetime.now(UTC))
    await world.bus.publish(CANCEL, [task_id])
    [task] = await world.ended([task_id])
    assert (task.state, outcomes_of(task)) == (TaskState.CANCELLED, [AttemptOutcome.UNCERTAIN])
    assert task.attempts[0].possible_cost_nano


async def test_a_taken_over_task_cancelled_in_the_queue_keeps_its_possible_cost(world: World) -> None:
    simulator = await world.simulator(latency_s=60)
    engine = await world.engine(zhipu(simulator.base_url))
    [task_id] = await world.queue("hello", **ASYNC)
    engine.offer(INTERACTIVE, {ROUTE: [task_id]})
    await until_submitted(world)
    await rescue(world, engine)
    async with world.database.write() as connection:
        state = await cancels.cancel(connection, task_id, project_id=world.key.project_id, now=datetime.now(UTC))
    task = await world.task(task_id)
    assert (state, outcomes_of(task)) == (TaskState.CANCELLED, [AttemptOutcome.UNCERTAIN])
    assert (await world.accounts()).possible_cost_nano == task.attempts[0].possible_cost_nano
    assert task.attempts[0].possible_cost_nano


@pytest.fixture
async def stopped(postgres_world: World) -> tuple[World, Simulator, list[UUID]]:
    """A worker that was stopped while it polled, with all the time in the world to drain."""
    simulator = await postgres_world.simulator(latency_s=3)
    engine = await postgres_world.engine(zhipu(simulator.base_url))
    ids = await postgres_world.queue("a", "b", **ASYNC)
    engine.offer(INTERACTIVE, {ROUTE: ids})
    await until_submitted(postgres_world, 2)
    async with asyncio.timeout(LIMIT_S):
        await engine.stop(drain_timeout_s=60)
    return postgres_world, simulator, ids


async def test_a_stopping_worker_gives_back_at_once_what_it_polls(
    stopped: tuple[World, Simulator, list[UUID]],
) -> None:
    world, simulator, ids = stopped
    assert [await world.state(i) for i in ids] == [TaskState.QUEUED] * 2
    again = await world.engine(zhipu(simulator.base_url))
    again.offer(INTERACTIVE, {ROUTE: ids})
    assert [outcomes_of(task) for task in await world.ended(ids)] == [[AttemptOutcome.SUCCEEDED]] * 2
    assert simulator.bill.charges == 2


async def test_a_call_of_another_key_is_left_to_the_worker_that_has_it(postgres_world: World) -> None:
    world = postgres_world
    simulator = await world.simulator(latency_s=0.3)
    first = await world.engine(zhipu(simulator.base_url, keys=("KEY_A",)))
    [task_id] = await world.queue("hello", **ASYNC)
    first.offer(INTERACTIVE, {ROUTE: [task_id]})
    await until_submitted(world)
    await rescue(world, first)
    other = await world.engine(zhipu(simulator.base_url, keys=("KEY_B",)))
    before = datetime.now(UTC)
    other.offer(INTERACTIVE, {ROUTE: [task_id]})

    async def put_off() -> Task | None:
        task = await world.task(task_id)
        return task if task.not_before > before + timedelta(seconds=20) else None

    task: Task = await until(put_off)
    assert (task.state, outcomes_of(task)) == (TaskState.QUEUED, [AttemptOutcome.OPEN])
    assert simulator.bill.charges <= 1


@pytest.mark.parametrize(("age_s", "low", "high"), [(0, 0.37, 0.63), (1, 0.37, 0.63), (20, 3.0, 5.0), (1e6, 7.5, 12.5)])
def test_a_call_is_polled_by_its_age(age_s: float, low: float, high: float) -> None:
    waits = [polling.wait_s(age_s, jitter=n / 10) for n in range(10)]
    assert low <= min(waits) < max(waits) <= high


async def test_an_id_that_is_not_known_any_more_is_uncertain_after_a_while(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(polling, "PATIENCE_S", 0.5)  # a minute of patience, shortened
    monkeypatch.setattr(polling, "FIRST_S", 0.1)
    simulator = await world.simulator(latency_s=60)
    engine = await world.engine(zhipu(simulator.base_url))
    [task_id] = await world.queue("hello", **ASYNC)
    engine.offer(INTERACTIVE, {ROUTE: [task_id]})
    await until_submitted(world)
    simulator.cloud.tasks._tasks.clear()
    simulator.cloud.tasks._by_request.clear()
    simulator.change(latency_s=0)
    [task] = await world.ended([task_id])
    assert outcomes_of(task) == [AttemptOutcome.UNCERTAIN, AttemptOutcome.SUCCEEDED]


async def test_a_catalog_that_took_the_route_to_another_wire_still_runs_the_task(world: World) -> None:
    simulator = await world.simulator()
    engine = await world.engine(replace(zhipu(simulator.base_url), kind="openai"))
    [task] = await world.run(engine, "hello", **ASYNC)
    assert (task.state, task.attempts[0].upstream_id) == (TaskState.SUCCEEDED, None)
