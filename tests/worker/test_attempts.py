"""What becomes of one task when its upstream does not simply answer."""

from __future__ import annotations

import socket
from datetime import UTC, datetime, timedelta
from uuid import UUID

import orjson
import pytest
from aiohttp import web

from tests.store import seeds
from tests.worker.scripted import Scripted, refuses, says
from tests.worker.world import INTERACTIVE, KEYS, PRICES, ROUTE, World, until, zhipu
from tollgate.broker.bus import CANCEL
from tollgate.domain.retries import RetryPolicy
from tollgate.domain.routing import UpstreamSpec
from tollgate.domain.states import AttemptOutcome, OnUncertain, TaskState
from tollgate.store import cancels
from tollgate.store.tasks import Task
from worker.billing import Rules
from worker.upstreams.chat import ChatUpstream

USAGE = {"prompt_tokens": 9, "completion_tokens": 4}


def outcomes_of(task: Task) -> list[AttemptOutcome]:
    return [attempt.outcome for attempt in task.attempts]


@pytest.mark.parametrize("code", ["1302", "1303", "1305", "none"])
async def test_a_refusal_for_now_repeats_the_same_attempt(world: World, code: str) -> None:
    simulator = await world.simulator(rate_limit_code=code)
    engine = await world.engine(zhipu(simulator.base_url))
    [task] = await world.run(engine, "[[fault:3x:429]] hello")
    assert (task.state, task.tries) == (TaskState.SUCCEEDED, 3)
    assert [(a.number, a.outcome, a.tries) for a in task.attempts] == [(1, AttemptOutcome.SUCCEEDED, 4)]
    assert simulator.bill.charges == 1


async def test_a_repeated_attempt_keeps_its_request_id_and_a_new_purchase_has_its_own(world: World) -> None:
    script = (refuses(429, "1302"), refuses(503), refuses(500, "500"), says(usage=USAGE))
    async with Scripted(*script) as upstream:
        engine = await world.engine(zhipu(upstream.base_url))
        [task] = await world.run(engine, "hello")
        sent = [asked.body["request_id"] for asked in upstream.asked]
        assert sent == [f"{task.id.hex}-1"] * 3 + [f"{task.id.hex}-2"]
        assert upstream.asked[0].headers["Authorization"] == f"Bearer {KEYS['KEY_A']}"


@pytest.mark.parametrize("fault", ["500", "garbage", "cut", "network_error", "1234"])
async def test_a_try_that_may_have_been_billed_is_uncertain_and_bought_anew(world: World, fault: str) -> None:
    simulator = await world.simulator()
    engine = await world.engine(zhipu(simulator.base_url))
    [task] = await world.run(engine, f"[[fault:once:{fault}]] hello")
    assert (task.state, task.tries) == (TaskState.SUCCEEDED, 1)
    first, second = task.attempts
    assert second.outcome is AttemptOutcome.SUCCEEDED
    if fault == "network_error":  # it told its tokens: what it cost is known
        assert first.outcome is AttemptOutcome.FAILED
        assert first.cost_nano
    else:
        assert first.outcome is AttemptOutcome.UNCERTAIN
        assert first.cost_nano is None
        assert first.possible_cost_nano
    assert (await world.accounts()).possible_cost_nano == (first.possible_cost_nano or 0)


async def test_an_answer_that_never_comes_is_uncertain(world: World) -> None:
    simulator = await world.simulator()
    engine = await world.engine(zhipu(simulator.base_url, first_byte_timeout_s=0.2))
    [task] = await world.run(engine, "[[fault:once:hang]] hello")
    assert outcomes_of(task) == [AttemptOutcome.UNCERTAIN, AttemptOutcome.SUCCEEDED]
    assert task.attempts[0].error_code == "timeout"


async def test_purchases_are_limited(world: World) -> None:
    simulator = await world.simulator()
    engine = await world.engine(zhipu(simulator.base_url))
    [task] = await world.run(engine, "[[fault:500]] hello")
    assert task.state is TaskState.FAILED
    assert outcomes_of(task) == [AttemptOutcome.UNCERTAIN] * 4
    assert "not tried again" in (task.error_message or "")


async def test_a_fault_of_our_own_runs_out_of_purchases(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(*_: object) -> None:
        raise RuntimeError("a bug")

    # A bug that nobody knows yet has no other way in.
    monkeypatch.setattr(ChatUpstream, "call", broken)
    engine = await world.engine(zhipu("http://127.0.0.1:9"))
    [task] = await world.run(engine, "hello")
    assert (task.state, outcomes_of(task)) == (TaskState.FAILED, [AttemptOutcome.UNCERTAIN] * 4)
    assert "the worker broke" in (task.error_message or "")


async def test_an_answer_that_cannot_be_used_and_tells_its_tokens_is_billed_by_them(world: World) -> None:
    def useless() -> web.Response:
        return web.json_response({"choices": [], "usage": {"prompt_tokens": 100, "completion_tokens": 900}})

    async with Scripted(useless, says()) as upstream:
        engine = await world.engine(zhipu(upstream.base_url))
        [task] = await world.run(engine, "hello")
    assert outcomes_of(task) == [AttemptOutcome.FAILED, AttemptOutcome.SUCCEEDED]
    first = task.attempts[0]
    assert (first.prompt_tokens, first.completion_tokens, first.possible_cost_nano) == (100, 900, None)
    assert first.cost_nano


async def test_on_uncertain_fail_buys_once(world: World) -> None:
    simulator = await world.simulator()
    engine = await world.engine(zhipu(simulator.base_url))
    [task] = await world.run(engine, "[[fault:once:cut]] hello", on_uncertain=OnUncertain.FAIL)
    assert (task.state, outcomes_of(task)) == (TaskState.FAILED, [AttemptOutcome.UNCERTAIN])
    assert task.attempts[0].possible_cost_nano


@pytest.mark.parametrize("code", ["1301", "1210", "1261", "1211"])
async def test_a_final_refusal_fails_the_task_with_the_upstreams_code(world: World, code: str) -> None:
    simulator = await world.simulator()
    engine = await world.engine(zhipu(simulator.base_url))
    [task] = await world.run(engine, f"[[fault:{code}]] hello")
    assert (task.state, task.error_code) == (TaskState.FAILED, code)
    assert outcomes_of(task) == [AttemptOutcome.FAILED]
    assert await world.cost_nano() == 0


async def test_a_call_that_found_no_connection_is_never_uncertain(world: World) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound and not listening: refuses
        engine = await world.engine(zhipu(f"http://127.0.0.1:{taken.getsockname()[1]}/v4"))
        [task_id] = await world.queue("hello")
        engine.offer(INTERACTIVE, {ROUTE: [task_id]})

        async def tried_thrice() -> Task | None:
            task = await world.task(task_id)
            return task if task.tries >= 3 else None

        task: Task = await until(tried_thrice)
        assert len(task.attempts) == 1
        assert task.attempts[0].outcome is AttemptOutcome.OPEN
        assert (await world.accounts()).attempts == 0


async def test_no_retry_starts_after_the_retry_deadline(world: World) -> None:
    simulator = await world.simulator()
    rules = Rules(prices=PRICES, policy=RetryPolicy(base_s=30, cap_s=30))
    engine = await world.engine(zhipu(simulator.base_url), rules=rules)
    soon = datetime.now(UTC) + timedelta(seconds=2)
    [task] = await world.run(engine, "[[fault:429]] hello", retry_until=soon)
    assert (task.state, task.error_code) == (TaskState.FAILED, "1302")
    assert outcomes_of(task) == [AttemptOutcome.FAILED]


async def test_cancelling_a_running_task_ends_it_and_leaves_its_attempt_uncertain(world: World) -> None:
    async with Scripted(says()) as upstream:
        upstream.gate.clear()
        engine = await world.engine(zhipu(upstream.base_url))
        [task_id] = await world.queue("hello")
        engine.offer(INTERACTIVE, {ROUTE: [task_id]})
        await upstream.arrived.wait()
        async with world.database.write() as connection:
            state = await cancels.cancel(connection, task_id, project_id=world.key.project_id, now=datetime.now(UTC))
        assert state is TaskState.RUNNING
        await world.bus.publish(CANCEL, [task_id])
        [task] = await world.ended([task_id])
        assert (task.state, outcomes_of(task)) == (TaskState.CANCELLED, [AttemptOutcome.UNCERTAIN])
        assert task.attempts[0].possible_cost_nano


async def test_a_cancel_whose_notice_was_lost_comes_with_the_heartbeat(world: World) -> None:
    async with Scripted(says()) as upstream:
        upstream.gate.clear()
        engine = await world.engine(zhipu(upstream.base_url))
        [task_id] = await world.queue("hello")
        engine.offer(INTERACTIVE, {ROUTE: [task_id]})
        await upstream.arrived.wait()
        async with world.database.write() as connection:
            await cancels.cancel(connection, task_id, project_id=world.key.project_id, now=datetime.now(UTC))
        [task] = await world.ended([task_id])
        assert task.state is TaskState.CANCELLED


async def test_cancelling_a_task_between_two_tries_abandons_its_attempt(world: World) -> None:
    simulator = await world.simulator(retry_after_s=60)
    engine = await world.engine(zhipu(simulator.base_url))
    [task_id] = await world.queue("[[fault:429]] hello")
    engine.offer(INTERACTIVE, {ROUTE: [task_id]})
    await until(lambda: _has_tries(world, task_id))
    async with world.database.write() as connection:
        await cancels.cancel(connection, task_id, project_id=world.key.project_id, now=datetime.now(UTC))
    task = await world.task(task_id)
    assert (task.state, outcomes_of(task)) == (TaskState.CANCELLED, [AttemptOutcome.ABANDONED])


async def test_cancelling_while_the_connection_is_made_abandons_the_attempt(world: World) -> None:
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        address = full.getsockname()
        # A queue of accepted connections that nobody takes: the next connect waits.
        with socket.create_connection(address), _connecting(address):
            engine = await world.engine(zhipu(f"http://127.0.0.1:{address[1]}/v4", connect_timeout_s=30))
            [task_id] = await world.queue("hello")
            engine.offer(INTERACTIVE, {ROUTE: [task_id]})
            await world.until_state(task_id, TaskState.RUNNING)
            async with world.database.write() as connection:
                await cancels.cancel(connection, task_id, project_id=world.key.project_id, now=datetime.now(UTC))
            [task] = await world.ended([task_id])
            assert (task.state, outcomes_of(task)) == (TaskState.CANCELLED, [AttemptOutcome.ABANDONED])
            assert (await world.accounts()).attempts == 0


async def test_the_call_of_a_task_ends_with_its_deadline(world: World) -> None:
    async with Scripted(says()) as upstream:
        upstream.gate.clear()
        engine = await world.engine(zhipu(upstream.base_url))
        soon = datetime.now(UTC) + timedelta(seconds=1)
        [task] = await world.run(engine, "hello", deadline=soon, retry_until=soon)
        assert (task.state, outcomes_of(task)) == (TaskState.FAILED, [AttemptOutcome.UNCERTAIN])


async def test_usage_that_was_not_told_is_estimated_and_marked(world: World) -> None:
    text = "a fine answer of some length"
    async with Scripted(says(text)) as upstream:
        engine = await world.engine(zhipu(upstream.base_url))
        [task] = await world.run(engine, "hello")
        [attempt] = task.attempts
        assert attempt.cost_estimated
        assert attempt.prompt_tokens == 10  # the request's own estimate
        assert 5 <= (attempt.completion_tokens or 0) <= len(text)
        assert (await world.accounts()).attempts_estimated == 1


async def test_a_model_without_a_price_is_counted_and_not_billed(world: World) -> None:
    async with Scripted(says(usage=USAGE)) as upstream:
        engine = await world.engine(zhipu(upstream.base_url))
        [task] = await world.run(engine, "hello", route="zhipu/brand-new")
        assert (task.attempts[0].prompt_tokens, task.attempts[0].cost_nano) == (9, None)
        assert (await world.accounts()).attempts_unpriced == 1


async def test_a_price_published_after_the_start_counts_for_the_first_answer(world: World) -> None:
    async with Scripted(says(usage=USAGE)) as upstream:
        engine = await world.engine(zhipu(upstream.base_url), rules=Rules(prices=type(PRICES)([])))
        [task] = await world.run(engine, "hello")
        assert task.attempts[0].cost_nano == 9 * 2_000 + 4 * 8_000


async def test_an_openai_compatible_server_is_asked_in_its_own_words(world: World) -> None:
    async with Scripted(says("four", usage={**USAGE, "total_tokens": 13})) as upstream:
        engine = await world.engine(UpstreamSpec(name="vllm", kind="openai", base_url=upstream.base_url))
        [task] = await world.run(engine, "2 + 2 = ?", route="vllm/Qwen/Qwen3-8B", model="qwen")
        assert task.state is TaskState.SUCCEEDED
        assert orjson.loads(task.result or "")["choices"][0]["message"]["content"] == "four"
        [asked] = upstream.asked
        assert (asked.path, asked.body["model"]) == ("/v1/chat/completions", "Qwen/Qwen3-8B")
        assert "request_id" not in asked.body
        assert "Authorization" not in asked.headers
        assert asked.headers["X-Request-Id"] == f"{task.id.hex}-1"


@pytest.mark.parametrize(
    ("status", "code", "outcome"),
    [
        (400, "invalid_request_error", AttemptOutcome.FAILED),
        (400, "context_length_exceeded", AttemptOutcome.FAILED),
        (404, "model_not_found", AttemptOutcome.FAILED),
    ],
)
async def test_an_openai_error_fails_the_task(world: World, status: int, code: str, outcome: AttemptOutcome) -> None:
    async with Scripted(refuses(status, code)) as upstream:
        engine = await world.engine(UpstreamSpec(name="vllm", kind="openai", base_url=upstream.base_url))
        [task] = await world.run(engine, "hello", route="vllm/m")
        assert (task.state, task.error_code, outcomes_of(task)) == (TaskState.FAILED, code, [outcome])


async def test_embeddings_go_to_their_own_path(world: World) -> None:
    simulator = await world.simulator()
    engine = await world.engine(zhipu(simulator.base_url))
    body = orjson.dumps({"model": "embedding-3", "input": "hello there"}).decode()
    route = "zhipu/embedding-3"
    [task] = await world.run(engine, "", endpoint="embeddings", model="embedding-3", route=route, body=body)
    assert task.state is TaskState.SUCCEEDED
    assert orjson.loads(task.result or "")["data"][0]["embedding"]
    assert await world.cost_nano() == simulator.bill.cost_nano


async def test_an_error_message_that_no_database_can_hold_does_not_lose_the_task(world: World) -> None:
    async with Scripted(refuses(400, "1210", "a\0b"), says(usage=USAGE)) as upstream:
        engine = await world.engine(zhipu(upstream.base_url))
        [task] = await world.run(engine, "hello")
        assert (task.state, task.error_message) == (TaskState.FAILED, "ab")


async def test_a_redirect_is_not_followed(world: World) -> None:
    async with Scripted(refuses(302, Location="http://127.0.0.1:9/")) as upstream:
        engine = await world.engine(zhipu(upstream.base_url))
        [task] = await world.run(engine, "hello")
        assert (task.state, len(upstream.asked)) == (TaskState.FAILED, 1)


NO_ANSWERS = {
    "postgresql": "ALTER TABLE task_results ADD CHECK (body IS NULL)",
    "sqlite": "CREATE TRIGGER no_answers BEFORE INSERT ON task_results WHEN NEW.body IS NOT NULL "
    "BEGIN SELECT RAISE(ABORT, 'it cannot be stored'); END",
}


async def test_an_answer_that_cannot_be_stored_fails_the_task_and_is_paid(world: World) -> None:
    # No answer is known that a database refuses and that passes as JSON: so this one is made to.
    async with world.database.write() as connection:
        await connection.exec_driver_sql(NO_ANSWERS[world.database.dialect])
    simulator = await world.simulator()
    engine = await world.engine(zhipu(simulator.base_url))
    [task] = await world.run(engine, "hello")
    assert (task.state, task.error_code) == (TaskState.FAILED, "unstorable")
    assert await world.cost_nano() == simulator.bill.cost_nano > 0


async def _has_tries(world: World, task_id: UUID) -> bool:
    return bool((await seeds.row(world.database, task_id)).tries)


def _connecting(address: tuple[str, int]) -> socket.socket:
    """A second connection, of which the kernel holds one too: the queue of a backlog of 0 takes one or two."""
    connecting = socket.socket()
    connecting.setblocking(False)
    connecting.connect_ex(address)
    return connecting
