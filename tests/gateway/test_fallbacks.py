"""A call whose first upstream fails it is answered by the fallback, and is told who answered."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx2
import openai
import orjson
import pytest
from aiohttp import web

from tests.gateway.conftest import OpenGate
from tests.gateway.gate import LIMIT_S, V4, Gate
from tests.gateway.test_sdk import MESSAGES, serve
from tollgate.domain.ids import new_id
from tollgate.domain.prices import PriceTable
from tollgate.simulator import Faults, Simulator, SimulatorSettings
from tollgate.store import leases

SECOND = "vllm/glm-4.7"
MODELS = """
[[upstream]]
name = "zhipu"
kind = "zhipu"
base_url_env = "SIMULATOR"
keys = ["SIMULATOR_KEY"]

[[upstream]]
name = "vllm"
kind = "openai"
base_url = "{second}"
keys = ["SIMULATOR_KEY"]

[[model]]
name = "glm-4.7"
routes = ["zhipu/glm-4.7", "vllm/glm-4.7"]
fallback_after = 1
"""
PRICES = """
currency = "CNY"
price = [
  { upstream = "zhipu", model = "glm-4.7", valid_from = 2024-01-01, input = "4", output = "16" },
  { upstream = "vllm", model = "glm-4.7", valid_from = 2024-01-01, input = "1", output = "1" },
]
"""
OVERLOADED = SimulatorSettings(rate_limit_code="1305", faults=Faults(rate_limit=1.0))
BODY = {"model": "glm-4.7", "messages": MESSAGES}


def written(folder: Path, second: Simulator) -> dict[str, Path]:
    """The two files, as settings."""
    models, prices = folder / "routed.toml", folder / "routed-prices.toml"
    models.write_text(MODELS.format(second=second.base_url))
    prices.write_text(PRICES)
    return {"models_file": models, "prices_file": prices}


@pytest.fixture
async def gate(gate_with: OpenGate, tmp_path: Path) -> AsyncIterator[Gate]:
    """In front of an overloaded upstream and a fallback that answers."""
    async with contextlib.AsyncExitStack() as stack:
        second = await stack.enter_async_context(
            Simulator(SimulatorSettings(extra_models=("glm-4.7",)), prices=PriceTable([]))
        )
        files = written(tmp_path, second)
        yield await stack.enter_async_context(gate_with(simulator=OVERLOADED, **files))


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (f"{V4}/chat/completions", BODY),
        (f"{V4}/chat/completions", {**BODY, "stream": True}),
        ("/v1/chat/completions", BODY),
        ("/v1/chat/completions", {**BODY, "stream": True}),
        ("/v1/responses", {"model": "glm-4.7", "input": "hello"}),
        ("/api/paas/v3/model-api/glm-4.7/invoke", {"prompt": MESSAGES}),
        ("/api/paas/v3/model-api/glm-4.7/sse-invoke", {"prompt": MESSAGES}),
    ],
)
async def test_a_waiting_call_is_answered_by_the_fallback_and_told_so(gate: Gate, path: str, body: Any) -> None:
    caller = await gate.caller()
    answer = await gate.http.post(path, json=body, headers={"Authorization": f"Bearer {caller.key}"})
    assert answer.status_code == 200
    assert answer.headers["x-upstream"] == SECOND
    assert "error" not in answer.text or '"error":null' in answer.text
    task = await caller.get(f"/tasks/{answer.headers['x-task-id']}")
    assert (task["upstream"], task["upstream_model"], task["model"]) == ("vllm", "glm-4.7", "glm-4.7")
    refused, bought = task["attempts"]
    assert (refused["upstream"], refused["outcome"], refused["error"]["code"]) == ("zhipu", "failed", "1305")
    assert (bought["upstream"], bought["outcome"]) == ("vllm", "succeeded")
    assert task["cost"] == bought["cost"] is not None


async def test_the_sdk_reads_a_stream_that_began_at_the_fallback(gate: Gate) -> None:
    async with serve(gate) as served, openai.AsyncOpenAI(base_url=f"{served.url}/v1", api_key=served.key) as client:
        stream = await client.chat.completions.create(
            model="glm-4.7", messages=[{"role": "user", "content": "[[echo]]hello there"}], stream=True
        )
        chunks = [chunk async for chunk in stream]
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "hello there"


class Breaking:
    """An upstream that begins every answer, and breaks off when `told`."""

    def __init__(self) -> None:
        self.told = asyncio.Event()
        self.base_url = ""

    async def answer(self, request: web.Request) -> web.StreamResponse:
        stream = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await stream.prepare(request)
        choice = {"index": 0, "delta": {"role": "assistant", "content": "half an"}}
        await stream.write(b"data: " + orjson.dumps({"id": "1", "choices": [choice]}) + b"\n\n")
        await self.told.wait()
        if request.transport is not None:
            request.transport.abort()
        return stream

    async def __aenter__(self) -> Breaking:
        app = web.Application()
        app.router.add_post("/chat/completions", self.answer)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.base_url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self.told.set()
        await self._runner.cleanup()


@pytest.mark.parametrize("native", [True, False])
async def test_a_stream_that_breaks_off_begins_anew_at_the_fallback(
    gate_with: OpenGate, tmp_path: Path, native: bool
) -> None:
    """Its readers are told of a restart; a call that cannot tell it ends with an error, and its task goes on."""
    prices = PriceTable([])
    async with Breaking() as first, Simulator(SimulatorSettings(extra_models=("glm-4.7",)), prices=prices) as second:
        files = written(tmp_path, second)
        async with gate_with(upstream=first.base_url, **files) as gate, serve(gate) as served:
            headers = {"Authorization": f"Bearer {served.key}"}
            async with httpx2.AsyncClient(base_url=served.url, headers=headers, timeout=LIMIT_S) as http:
                if native:
                    made = await http.post("/tasks", json={"model": "glm-4.7", "prompt": "hello", "stream": True})
                    asked = http.stream("GET", f"/tasks/{made.json()['id']}/events")
                else:
                    asked = http.stream("POST", "/v1/chat/completions", json={**BODY, "stream": True})
                async with asked as answer:
                    lines = answer.aiter_lines()
                    begun = [await anext(lines)]
                    first.told.set()
                    text = "\n".join([*begun, *[line async for line in lines]])
                if native:
                    names = [line.removeprefix("event: ") for line in text.splitlines() if line.startswith("event: ")]
                    assert (names[0], "restart" in names, names[-1]) == ("delta", True, "end")
                else:
                    assert answer.headers["x-upstream"] == "zhipu/glm-4.7", "who had begun it"
                    assert "is run again" in text
                task_id = made.json()["id"] if native else answer.headers["x-task-id"]
                task = (await http.get(f"/tasks/{task_id}", params={"wait": LIMIT_S})).json()
    assert [(a["upstream"], a["outcome"]) for a in task["attempts"]] == [("zhipu", "failed"), ("vllm", "succeeded")]
    assert (task["upstream"], task["attempts"][0]["cost_estimated"]) == ("vllm", True)


async def test_usage_by_upstream_tells_where_the_money_went(gate: Gate) -> None:
    caller = await gate.caller()
    made = await caller.submit({"model": "glm-4.7", "prompt": "hello"})
    task = await caller.get(f"/tasks/{made['id']}?wait=10")
    by = {group["upstream"]: group for group in (await caller.get("/usage?by=upstream"))["data"]}
    assert (by["zhipu"]["attempts_failed"], by["zhipu"]["cost"]) == (1, "0")
    assert (by["vllm"]["tasks_succeeded"], by["vllm"]["cost"]) == (1, task["cost"])


async def test_before_an_answer_nobody_is_named_and_lists_name_who_answered(gate: Gate) -> None:
    caller = await gate.caller()
    later = await caller.submit({"model": "glm-4.7", "prompt": "hello", "run_after": "2035-01-01T00:00:00Z"})
    assert (await caller.get(f"/tasks/{later['id']}"))["upstream"] is None
    done = await caller.submit({"model": "glm-4.7", "prompt": "hello"})
    await caller.get(f"/tasks/{done['id']}?wait=10")
    listed = {task["id"]: task["upstream"] for task in (await caller.get("/tasks"))["data"]}
    assert listed == {later["id"]: None, done["id"]: "vllm"}


async def test_a_stuck_route_is_shown_with_where_its_tasks_go(gate: Gate) -> None:
    now = datetime.now(UTC)
    async with gate.database.write() as connection:
        for worker in await leases.alive(connection):
            await leases.bury(connection, worker.id)
        await leases.register(connection, worker_id := new_id(), name="w", lanes=("cloud.bulk",), now=now)
        load = {"zhipu/glm-4.7": leases.RouteLoad(0, 0, True), SECOND: leases.RouteLoad(0, 9)}
        await leases.renew(connection, worker_id, load=load, now=now)
    ready = (await gate.http.get("/readyz")).json()
    why = "upstream zhipu is paused, without a key, or down"
    assert ready["stuck_routes"] == [{"route": "zhipu/glm-4.7", "reason": why, "fallbacks": [SECOND]}]


async def test_a_models_rule_is_shown(gate: Gate) -> None:
    caller = await gate.caller()
    (model,) = (await caller.get("/models"))["data"]
    assert model["routes"] == ["zhipu/glm-4.7", SECOND]
    assert (model["fallback_on"], model["fallback_after"]) == (["outage", "overload", "pause"], 1)
