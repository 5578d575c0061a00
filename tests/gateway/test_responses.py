"""OpenAI's responses with `background`, by its SDK: a task by another name."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import openai
import orjson
import pytest

from tests.gateway.conftest import OpenGate
from tests.gateway.gate import LIMIT_S, Gate
from tests.gateway.test_sdk import Served, serve
from tests.gateway.test_streams import of_openai
from tollgate.simulator import SimulatorSettings

TOOL = {"type": "function", "name": "weather", "parameters": {"type": "object", "properties": {}}}


@pytest.fixture
async def served(gate_with: OpenGate) -> AsyncIterator[Served]:
    async with gate_with(simulator=SimulatorSettings(), sync_retry_s=0.001) as gate, serve(gate) as running:
        yield running


async def create(served: Served, **fields: Any) -> Any:
    async with of_openai(served) as client:
        return await client.responses.create(**{"model": "glm-4.7", "background": True, **fields})


async def completed(served: Served, response_id: str) -> Any:
    async with of_openai(served) as client, asyncio.timeout(LIMIT_S):
        return await client.responses.retrieve(response_id, extra_query={"wait": LIMIT_S})


async def test_it_is_submitted_retrieved_and_billed(served: Served) -> None:
    made = await create(
        served, input="[[echo]]你好", instructions="be kind", metadata={"row": "7"}, max_output_tokens=40
    )
    assert (made.object, made.status in ("queued", "in_progress", "completed")) == ("response", True)
    done = await completed(served, made.id)
    assert (done.id, done.status, done.output_text, done.metadata) == (made.id, "completed", "你好", {"row": "7"})
    assert served.gate.simulator is not None
    bill = served.gate.simulator.bill
    assert (done.usage.input_tokens, done.usage.output_tokens) == (bill.prompt_tokens, bill.completion_tokens)
    task = await (await served.gate.caller()).get(f"/tasks/{made.id.removeprefix('resp_')}")
    assert (task["state"], task["metadata"]) == ("succeeded", {"row": "7"})


async def test_without_background_it_is_waited_for(served: Served) -> None:
    done = await create(served, background=False, input=[{"role": "user", "content": "[[echo]]now"}])
    assert (done.status, done.output_text) == ("completed", "now")


async def test_a_conversation_with_tools(served: Served) -> None:
    asked = {"role": "user", "content": [{"type": "input_text", "text": "[[tool]]rain?"}]}
    first = await completed(served, (await create(served, input=[asked], tools=[TOOL])).id)
    [call] = first.output
    assert (call.type, call.name) == ("function_call", "weather")
    orjson.loads(call.arguments)
    result = {"type": "function_call_output", "call_id": call.call_id, "output": "[[echo]]dry"}
    history = [asked, call.model_dump(exclude_none=True), result, {"role": "user", "content": "[[echo]]dry"}]
    second = await completed(served, (await create(served, input=history, tools=[TOOL])).id)
    assert second.output_text == "dry"


async def test_an_answer_that_ran_out_of_tokens_is_incomplete(served: Served) -> None:
    done = await completed(served, (await create(served, input="[[tokens:50]]", max_output_tokens=5)).id)
    assert (done.status, done.incomplete_details.reason) == ("incomplete", "max_output_tokens")


async def test_one_that_fails_says_why(served: Served) -> None:
    done = await completed(served, (await create(served, input="[[fault:1301]]")).id)
    assert (done.status, done.error.code, done.output) == ("failed", "invalid_prompt", [])
    assert done.error.message


async def test_one_that_runs_is_cancelled(served: Served) -> None:
    made = await create(served, input="[[latency:60]]")
    async with of_openai(served) as client:
        cancelled = await client.responses.cancel(made.id)
        assert cancelled.status == "cancelled"
        assert (await client.responses.cancel(made.id)).status == "cancelled"


@pytest.mark.parametrize(
    ("given", "param"),
    [
        ({"input": []}, "input"),
        ({"input": [{"type": "computer_call"}]}, "input.0"),
        ({"input": [{"role": "user", "content": [{"type": "input_file"}]}]}, "input.0.content"),
        ({"input": "hi", "tools": [{"type": "web_search"}]}, "tools.0"),
        ({"input": "hi", "stream": True}, "stream"),
        ({"input": "hi", "previous_response_id": "resp_1"}, "previous_response_id"),
        ({"input": "hi", "temperature": 9}, "temperature"),
    ],
    ids=repr,
)
async def test_what_is_not_served_is_told(sqlite_gate: Gate, given: Any, param: str) -> None:
    caller = await sqlite_gate.caller()
    answer = await caller.send("POST", "/v1/responses", body={"model": "glm-4.7", **given})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param), answer.text


async def test_nobody_elses_and_nobodys(served: Served) -> None:
    theirs = await (await served.gate.caller(project="other")).post(
        "/v1/responses", {"model": "glm-4.7", "input": "x", "background": True}
    )
    async with of_openai(served) as client:
        for response_id in (theirs["id"], "resp_x"):
            with pytest.raises(openai.NotFoundError):
                await client.responses.retrieve(response_id)
            with pytest.raises(openai.NotFoundError):
                await client.responses.cancel(response_id)


@pytest.mark.parametrize(
    ("prefer", "ended"), [("wait=5", True), ('respond-async, wait="5"', True), ("wait=x", False), ("await=5", False)]
)
async def test_prefer_wait_is_a_wish(served: Served, prefer: str, ended: bool) -> None:
    caller = await served.gate.caller()
    made = await caller.submit({"model": "glm-4.7", "prompt": "[[latency:0.3]]"})
    headers = {"Authorization": f"Bearer {caller.key}", "Prefer": prefer}
    told = (await caller.http.get(f"/tasks/{made['id']}", headers=headers)).json()
    assert (told["state"] == "succeeded") is ended
