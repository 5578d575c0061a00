"""What becomes of a streamed task when its upstream's stream does not simply end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import orjson
import pytest
from aiohttp import web

from tests.worker.scripted import Scripted, refuses, says
from tests.worker.world import World, zhipu
from tollgate.domain.states import AttemptOutcome, TaskState

USAGE = {"prompt_tokens": 9, "completion_tokens": 4}
WORDS = ("one ", "two ", "three ")


def streams(*words: str, error: str | None = None, ends: bool = True, status: int = 200) -> Callable[[], web.Response]:
    """A stream of `words`, and then an end with the usage, an error of that code, or nothing."""
    chunks: list[Any] = [{"id": "c-1", "choices": [{"index": 0, "delta": {"content": word}}]} for word in words]
    if error is not None:
        chunks.append({"error": {"code": error, "message": "no"}})
    elif ends:
        chunks.append({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}], "usage": USAGE})
    frames = [f"data: {orjson.dumps(chunk).decode()}\n\n" for chunk in chunks] + (["data: [DONE]\n\n"] if ends else [])
    return lambda: web.Response(text="".join(frames), status=status, content_type="text/event-stream")


async def test_its_answer_is_kept_whole(world: World) -> None:
    async with Scripted(streams(*WORDS)) as upstream:
        engine = await world.engine(zhipu(upstream.base_url))
        [task] = await world.run(engine, "hello", streamed=True)
        assert upstream.asked[0].body["stream"] is True
    assert task.result is not None
    assert orjson.loads(task.result)["choices"][0]["message"]["content"] == "one two three "
    [attempt] = task.attempts
    assert (attempt.completion_tokens, attempt.cost_estimated) == (4, False)


async def test_an_answer_that_ended_is_whole_whatever_breaks_after_it(world: World) -> None:
    """To buy it again would be to pay twice for an answer that exists."""
    last = orjson.dumps({"choices": [{"index": 0, "delta": {"content": "ok"}, "finish_reason": "stop"}]}).decode()
    text = f'data: {last}\n\ndata: {{"error": {{"code": "1230"}}}}\n\n'
    async with Scripted(lambda: web.Response(text=text, content_type="text/event-stream")) as upstream:
        engine = await world.engine(zhipu(upstream.base_url))
        [task] = await world.run(engine, "hello", streamed=True)
        assert len(upstream.asked) == 1
    assert [(a.number, a.outcome) for a in task.attempts] == [(1, AttemptOutcome.SUCCEEDED)]


async def test_an_upstream_that_does_not_stream_is_taken_as_it_is(world: World) -> None:
    async with Scripted(says("four", usage=USAGE)) as upstream:
        engine = await world.engine(zhipu(upstream.base_url))
        [task] = await world.run(engine, "hello", streamed=True)
    assert task.result is not None
    assert orjson.loads(task.result)["choices"][0]["message"]["content"] == "four"


@pytest.mark.parametrize(
    "broken",
    [
        streams(*WORDS, ends=False),
        streams(*WORDS, error="1302", ends=False),
        streams(*WORDS, error="1113", ends=False),
        streams(*WORDS, error="1230", ends=False),
    ],
    ids=["cut", "rate", "balance", "broke"],
)
async def test_what_broke_off_is_paid_as_far_as_it_came_and_bought_anew(
    world: World, broken: Callable[[], web.Response]
) -> None:
    """Never the same attempt once more: its readers would take the new words for more of the old ones."""
    async with Scripted(broken, streams("again")) as upstream:
        engine = await world.engine(zhipu(upstream.base_url, keys=("KEY_A", "KEY_B")))
        [task] = await world.run(engine, "hello", streamed=True)
    assert task.state is TaskState.SUCCEEDED
    assert [(a.number, a.outcome) for a in task.attempts] == [(1, AttemptOutcome.FAILED), (2, AttemptOutcome.SUCCEEDED)]
    first = task.attempts[0]
    assert first.cost_estimated
    assert first.completion_tokens
    assert first.cost_nano
    assert await world.cost_nano() == (await world.accounts()).cost_nano


@pytest.mark.parametrize("refusal", [refuses(429, "1302"), streams(error="1302", ends=False, status=429), refuses(503)])
async def test_a_refusal_before_the_first_word_costs_nothing(world: World, refusal: Callable[[], web.Response]) -> None:
    async with Scripted(refusal, streams("ok")) as upstream:
        engine = await world.engine(zhipu(upstream.base_url))
        [task] = await world.run(engine, "hello", streamed=True)
    assert [(a.number, a.outcome, a.tries) for a in task.attempts] == [(1, AttemptOutcome.SUCCEEDED, 2)]


async def test_a_final_error_in_mid_stream_fails_the_task_and_what_came_is_paid(world: World) -> None:
    async with Scripted(streams(*WORDS, error="1301", ends=False)) as upstream:
        engine = await world.engine(zhipu(upstream.base_url))
        [task] = await world.run(engine, "hello", streamed=True)
    [attempt] = task.attempts
    assert (task.state, task.error_code, attempt.outcome) == (TaskState.FAILED, "1301", AttemptOutcome.FAILED)
    assert attempt.cost_nano


async def test_a_stream_may_take_longer_than_an_answer_in_one_piece(world: World) -> None:
    simulator = await world.simulator(tokens_per_second=100)
    engine = await world.engine(zhipu(simulator.base_url, total_timeout_s=0.4, first_byte_timeout_s=0.3))
    async with asyncio.timeout(20):
        [task] = await world.run(engine, "[[tokens:120]]", streamed=True)
    assert [a.outcome for a in task.attempts] == [AttemptOutcome.SUCCEEDED]
