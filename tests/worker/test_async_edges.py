"""Submit and poll where it is frayed: each test stands beside a fault that was found by reading."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from aiohttp import web

from tests.store import seeds
from tests.worker.async_cloud import AsyncCloud, always_done, done, fails, numbered, refused, takes, unreadable
from tests.worker.test_async_mode import ASYNC, outcomes_of, submitted_by_a_worker_that_dies
from tests.worker.world import HASTY, INTERACTIVE, KEYS, LIMIT_S, PRICES, ROUTE, World, until, zhipu
from tollgate.domain.prices import PriceTable, worst_case_nano
from tollgate.domain.states import AttemptOutcome, OnUncertain, TaskState
from tollgate.store import cancels
from tollgate.store.schema import attempts
from worker import polling
from worker.billing import Rules
from worker.engine import Engine
from worker.lease import Timing
from worker.polling import Poller
from worker.upstreams.upstream import Answer
from worker.upstreams.zhipu import ZhipuUpstream
from worker.watch import Watch

HELD = [AttemptOutcome.OPEN]
DOUBTED = [AttemptOutcome.UNCERTAIN]
BOUGHT_ANEW = [AttemptOutcome.UNCERTAIN, AttemptOutcome.SUCCEEDED]
BOUGHT = [AttemptOutcome.SUCCEEDED]


def cut(turn: int) -> None:
    """No submit is answered."""


def cut_once(answer: Callable[[], web.Response]) -> Callable[[int], web.Response | None]:
    return lambda turn: None if turn == 1 else answer()


def first_gets(answer: Callable[[], web.Response]) -> Callable[[str], web.Response]:
    """Polls of t-1 are answered so, others well."""
    return lambda upstream_id: answer() if upstream_id == "t-1" else done()


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A minute of patience, shortened."""
    monkeypatch.setattr(polling, "PATIENCE_S", 0.2)
    monkeypatch.setattr(polling, "FIRST_S", 0.02)


async def start(world: World, engine: Engine, prompt: str = "hello") -> UUID:
    [task_id] = await world.queue(prompt, **ASYNC)
    engine.offer(INTERACTIVE, {ROUTE: [task_id]})
    return task_id


async def ask_to_cancel(world: World, task_id: UUID) -> None:
    """Its notice is lost on the way."""
    async with world.database.write() as connection:
        await cancels.cancel(connection, task_id, project_id=world.key.project_id, now=datetime.now(UTC))


async def rescue(world: World) -> None:
    await Watch(world.database, world.bus, Rules(prices=PRICES, policy=HASTY)).rescue()


async def until_put_off(world: World, task_id: UUID) -> None:
    soon = datetime.now(UTC) + timedelta(seconds=15)

    async def put_off() -> bool:
        task = await world.task(task_id)
        return task.state is TaskState.QUEUED and task.not_before > soon

    await until(put_off)


async def _truth(value: object) -> bool:
    return bool(value)


async def assert_doubt_is_booked(world: World, task_id: UUID) -> None:
    """One uncertain attempt, with a possible cost that is in the accounts."""
    task, accounts = await world.task(task_id), await world.accounts()
    assert outcomes_of(task) == DOUBTED
    assert task.attempts[0].possible_cost_nano
    assert (accounts.attempts_uncertain, accounts.possible_cost_nano) == (1, task.attempts[0].possible_cost_nano)


async def test_a_submit_cut_after_its_cancel_was_asked_is_uncertain(world: World) -> None:
    async with AsyncCloud(cut, always_done) as cloud:
        # Heartbeats as slow as in earnest: none tells of the cancel while this runs.
        engine = await world.engine(zhipu(cloud.base_url), timing=Timing())
        cloud.gate.clear()
        task_id = await start(world, engine)
        await cloud.arrived.wait()
        await ask_to_cancel(world, task_id)
        cloud.gate.set()
        await world.until_state(task_id, TaskState.CANCELLED)
    await assert_doubt_is_booked(world, task_id)
    assert len(cloud.sent) == 1


async def test_a_cancelled_submit_of_a_worker_that_died_is_uncertain(world: World) -> None:
    simulator = await world.simulator()
    task_id = await submitted_by_a_worker_that_dies(world, simulator)
    await ask_to_cancel(world, task_id)
    await rescue(world)
    assert await world.state(task_id) is TaskState.CANCELLED
    await assert_doubt_is_booked(world, task_id)
    assert simulator.bill.cost_nano <= (await world.accounts()).possible_cost_nano


async def test_an_unanswered_submit_that_is_refused_to_the_end_is_uncertain(world: World) -> None:
    async with AsyncCloud(cut_once(lambda: refused(429, "1302")), always_done) as cloud:
        engine = await world.engine(zhipu(cloud.base_url))
        end = datetime.now(UTC) + timedelta(seconds=1)
        [task] = await world.run(engine, "hello", retry_until=end, **ASYNC)
    assert task.state is TaskState.FAILED
    assert len(cloud.sent) > 1
    await assert_doubt_is_booked(world, task.id)


async def test_an_unanswered_submit_that_is_then_refused_for_good_is_uncertain(world: World) -> None:
    async with AsyncCloud(cut_once(lambda: refused(400, "1211")), always_done) as cloud:
        engine = await world.engine(zhipu(cloud.base_url))
        [task] = await world.run(engine, "hello", **ASYNC)
    assert (task.state, len(cloud.sent)) == (TaskState.FAILED, 2)
    await assert_doubt_is_booked(world, task.id)


@pytest.mark.parametrize("code", ["1302", "1305", "1113", "1001"])
async def test_a_call_that_failed_there_is_bought_anew_and_pauses_nobody(world: World, code: str) -> None:
    """Whatever its code is called: no refusal of the next one."""
    async with AsyncCloud(numbered, first_gets(lambda: fails(code))) as cloud:
        engine = await world.engine(zhipu(cloud.base_url))
        [task] = await world.run(engine, "hello", **ASYNC)
    assert (task.state, outcomes_of(task)) == (TaskState.SUCCEEDED, BOUGHT_ANEW)
    assert task.attempts[0].error_code == code
    assert task.attempts[0].possible_cost_nano
    assert (len(cloud.sent), cloud.polled) == (2, ["t-1", "t-2"])
    assert await world.paused() == {}


async def test_a_polled_success_lifts_no_pause(world: World) -> None:
    """It was bought before: it says nothing of the balance."""
    # Refused once only: a call that follows a lifted pause would not bring the pause back.
    async with AsyncCloud(lambda turn: refused(429, "1113") if turn == 2 else numbered(turn), always_done) as cloud:
        engine = await world.engine(zhipu(cloud.base_url))
        cloud.poll_gate.clear()
        bought = await start(world, engine, "bought")
        await until(lambda: _truth(cloud.polled))
        await start(world, engine, "refused")
        await until(world.paused)
        cloud.poll_gate.set()
        await world.ended([bought])
    assert set(await world.paused()) == {"KEY_A"}


@pytest.mark.usefixtures("impatient")
async def test_polls_that_are_refused_for_ever_give_the_task_back_and_free_its_slot(world: World) -> None:
    async with AsyncCloud(numbered, first_gets(lambda: refused(401, "1002"))) as cloud:
        engine = await world.engine(zhipu(cloud.base_url, max_in_flight=1))
        first = await start(world, engine)
        await until(lambda: _truth(cloud.polled))
        second = await start(world, engine)
        [other] = await world.ended([second])
        await until_put_off(world, first)
    task = await world.task(first)
    assert (outcomes_of(task), task.tries, task.attempts[0].upstream_id) == (HELD, 0, "t-1")
    assert other.state is TaskState.SUCCEEDED
    assert cloud.polled.count("t-1") >= polling.MISSES
    assert await world.paused() == {}


@pytest.mark.usefixtures("impatient")
async def test_a_result_that_cannot_be_read_for_long_is_uncertain(world: World) -> None:
    async with AsyncCloud(numbered, first_gets(unreadable)) as cloud:
        engine = await world.engine(zhipu(cloud.base_url, max_in_flight=1))
        [task] = await world.run(engine, "hello", **ASYNC)
    assert (task.state, outcomes_of(task)) == (TaskState.SUCCEEDED, BOUGHT_ANEW)
    assert task.attempts[0].possible_cost_nano
    assert cloud.polled.count("t-1") >= polling.MISSES


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("answer", [lambda: refused(404, "1200"), unreadable], ids=["not found", "unreadable"])
async def test_one_useless_answer_to_a_poll_ends_nothing(world: World, answer: Callable[[], web.Response]) -> None:
    async with AsyncCloud(numbered, lambda _: answer() if len(cloud.polled) == 1 else done()) as cloud:
        engine = await world.engine(zhipu(cloud.base_url))
        [task] = await world.run(engine, "hello", **ASYNC)
    assert (task.state, outcomes_of(task)) == (TaskState.SUCCEEDED, BOUGHT)
    assert (len(cloud.sent), cloud.polled) == (1, ["t-1", "t-1"])


@pytest.mark.parametrize("upstream_id", ["../chat", "..", "a/b", "a?b=1", "a#b", "a%2Fb", "a b", "é", "x" * 300, ""])
async def test_an_id_that_cannot_be_part_of_an_address_is_refused(world: World, upstream_id: str) -> None:
    async with AsyncCloud(lambda _: takes(upstream_id), always_done) as cloud:
        engine = await world.engine(zhipu(cloud.base_url))
        [task] = await world.run(engine, "hello", **ASYNC)
    assert (task.state, task.attempts[0].upstream_id) == (TaskState.FAILED, None)
    assert cloud.polled == []
    await assert_doubt_is_booked(world, task.id)


async def test_a_possible_cost_is_of_the_models_longest_answer(world: World) -> None:
    async with AsyncCloud(cut, always_done) as cloud:
        engine = await world.engine(zhipu(cloud.base_url))
        [task] = await world.run(engine, "hello", assumed_max_tokens=16_384, **ASYNC)
    [row] = await seeds.rows_of(world.database, attempts)
    assert row.possible_tokens == 10 + 16_384
    longest = worst_case_nano(seeds.PRICE, prompt_tokens=10, completion_tokens=16_384)
    assert task.attempts[0].possible_cost_nano == longest


async def test_a_failure_knows_a_price_that_was_published_meanwhile(world: World) -> None:
    async with AsyncCloud(cut, always_done) as cloud:
        rules = Rules(prices=PriceTable([]), policy=HASTY)  # as read before its publishing
        engine = await world.engine(zhipu(cloud.base_url), rules=rules)
        [task] = await world.run(engine, "hello", **ASYNC)
    [row] = await seeds.rows_of(world.database, attempts)
    assert row.price_id == seeds.PRICE.id
    await assert_doubt_is_booked(world, task.id)


async def test_a_row_for_polling_on_an_upstream_without_it_is_not_bought_twice_unasked(world: World) -> None:
    """models.toml took its route to another wire: there a repeated request_id is a new purchase."""
    async with AsyncCloud(cut, always_done) as cloud:
        engine = await world.engine(zhipu(cloud.base_url, kind="openai"))
        [task] = await world.run(engine, "hello", on_uncertain=OnUncertain.FAIL, **ASYNC)
    assert (task.state, len(cloud.sent)) == (TaskState.FAILED, 1)
    await assert_doubt_is_booked(world, task.id)


async def test_polls_that_hang_at_one_upstream_do_not_delay_anothers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(polling, "AT_ONCE", 2)  # so many hang
    now, poller = datetime.now(UTC), Poller()

    async def answer(upstream: ZhipuUpstream) -> Answer:
        return await poller.answer(upstream, "t-1", credential="KEY_A", since=now, until=now + timedelta(hours=1))

    async with AsyncCloud(numbered, always_done) as hung, AsyncCloud(numbered, always_done) as healthy:
        hung.poll_gate.clear()
        one = ZhipuUpstream(zhipu(hung.base_url), base_url=hung.base_url, secrets=KEYS)
        other = ZhipuUpstream(zhipu(healthy.base_url), base_url=healthy.base_url, secrets=KEYS)
        waiting = [asyncio.create_task(answer(one)) for _ in range(3)]
        await until(lambda: _truth(len(hung.polled) == 2))
        async with asyncio.timeout(LIMIT_S):
            assert (await answer(other)).http_status == 200
        assert len(hung.polled) == 2
        hung.poll_gate.set()
        await asyncio.gather(*waiting)
        await one.close()
        await other.close()
