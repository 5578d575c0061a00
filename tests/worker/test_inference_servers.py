"""vLLM and SGLang as upstreams: the usage is theirs to the token, also of a stream, and who cancels frees their GPU."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import orjson
import pytest

from tests.inference_server import PROMPT_TOKENS, InferenceServer
from tests.worker.world import INTERACTIVE, World
from tollgate.broker.bus import CANCEL
from tollgate.domain.routing import UpstreamSpec
from tollgate.domain.states import AttemptOutcome, OnUncertain, TaskState
from tollgate.store import cancels
from worker.engine import Engine

ROUTE = "vllm/glm-4-9b"


@pytest.fixture
async def server() -> AsyncIterator[InferenceServer]:
    async with InferenceServer() as running:
        yield running


async def engine_of(world: World, server: InferenceServer) -> Engine:
    return await world.engine(UpstreamSpec(name="vllm", kind="openai", base_url=server.base_url))


async def begun(world: World, server: InferenceServer, **changes: Any) -> UUID:
    """A task whose answer is under way, and held there."""
    server.gate.clear()
    engine = await engine_of(world, server)
    [task_id] = await world.queue("hello", route=ROUTE, **changes)
    engine.offer(INTERACTIVE, {ROUTE: [task_id]})
    async with asyncio.timeout(10):
        await server.arrived.wait()
    return task_id


async def cancel(world: World, task_id: UUID) -> None:
    async with world.database.write() as connection:
        await cancels.cancel(connection, task_id, project_id=world.key.project_id, now=datetime.now(UTC))
    await world.bus.publish(CANCEL, [task_id])


@pytest.mark.parametrize("continuous", [False, True], ids=["at the end", "with every chunk"])
@pytest.mark.parametrize("streamed", [True, False], ids=["stream", "whole"])
async def test_the_usage_is_the_servers_own(
    world: World, server: InferenceServer, streamed: bool, continuous: bool
) -> None:
    server.continuous = continuous
    engine = await engine_of(world, server)
    [task] = await world.run(engine, "hello", route=ROUTE, streamed=streamed)
    [attempt] = task.attempts
    assert task.state is TaskState.SUCCEEDED
    assert (attempt.prompt_tokens, attempt.cached_tokens, attempt.completion_tokens) == (PROMPT_TOKENS, 4, 5)
    assert not attempt.cost_estimated
    answer = orjson.loads(task.result or "")
    assert answer["choices"][0]["message"]["content"] == "Four is the answer."
    assert answer["object"] == "chat.completion"
    assert answer["usage"]["total_tokens"] == PROMPT_TOKENS + 5
    asked = server.asked[0].get("stream_options")
    assert asked == ({"include_usage": True} if streamed else None)


@pytest.mark.parametrize("streamed", [True, False], ids=["stream", "whole"])
async def test_a_cancel_hangs_up_and_the_server_aborts(
    sqlite_world: World, server: InferenceServer, streamed: bool
) -> None:
    """It learns of it from the connection alone: while it is open, the GPU works on."""
    task_id = await begun(sqlite_world, server, streamed=streamed)
    assert not server.aborted.is_set()
    await cancel(sqlite_world, task_id)
    async with asyncio.timeout(10):
        await server.aborted.wait()
    [task] = await sqlite_world.ended([task_id])
    assert task.state is TaskState.CANCELLED
    assert len(server.asked) == 1


async def test_what_a_stream_that_broke_had_come_to_is_the_servers_count(
    sqlite_world: World, server: InferenceServer
) -> None:
    server.continuous, server.breaks = True, True
    engine = await engine_of(sqlite_world, server)
    [task] = await sqlite_world.run(engine, "hello", route=ROUTE, streamed=True, on_uncertain=OnUncertain.FAIL)
    [attempt] = task.attempts
    assert (task.state, attempt.outcome) == (TaskState.FAILED, AttemptOutcome.FAILED)
    assert (attempt.prompt_tokens, attempt.completion_tokens, attempt.cost_estimated) == (PROMPT_TOKENS, 1, False)
    assert str(attempt.error_message).startswith("EngineCore died")


TOO_LONG = "This model's maximum context length is 8192 tokens, and the prompt has 9000"


@pytest.mark.parametrize(
    "body",
    [
        {"error": {"message": TOO_LONG, "type": "BadRequestError", "param": "messages", "code": 400}},
        {"object": "error", "message": TOO_LONG, "type": "BadRequestError", "param": "messages", "code": 400},
    ],
    ids=["vllm", "sglang"],
)
async def test_a_refusal_is_told_in_the_servers_words(
    sqlite_world: World, server: InferenceServer, body: dict[str, Any]
) -> None:
    server.refusal = (400, body)
    engine = await engine_of(sqlite_world, server)
    [task] = await sqlite_world.run(engine, "hello", route=ROUTE)
    assert (task.state, len(server.asked)) == (TaskState.FAILED, 1)
    assert task.attempts[0].error_message == TOO_LONG
