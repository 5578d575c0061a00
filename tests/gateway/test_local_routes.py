"""A model on one's own device and in the cloud, as clients meet it: who answers, and what is said of what waits."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import orjson
import pytest

from tests.gateway.conftest import OpenGate
from tests.gateway.gate import V4, Caller, Gate, one, refusal, until
from tests.gateway.test_batch_estimates import estimate, line
from tests.gateway.test_files import upload
from tests.store import seeds
from tollgate.domain.ids import new_id
from tollgate.simulator import SimulatorSettings
from tollgate.store import leases
from tollgate.store.leases import RouteLoad

GPU, CLOUD = "gpu/glm-4-9b", "zhipu/glm-4.7"
MODELS = """
[[upstream]]
name = "gpu"
kind = "local"

[[upstream]]
name = "zhipu"
kind = "zhipu"
base_url_env = "SIMULATOR"
keys = ["SIMULATOR_KEY"]

[[model]]
name = "glm-4.7"
routes = ["gpu/glm-4-9b", "zhipu/glm-4.7"]

[[model]]
name = "ours"
routes = ["gpu/glm-4-9b"]

[[model]]
name = "theirs"
routes = ["zhipu/glm-4.7"]
"""
PRICES = """
currency = "CNY"
price = [
  { upstream = "zhipu", model = "glm-4.7", valid_from = 2024-01-01, input = "4", output = "16" },
  { upstream = "gpu", model = "glm-4-9b", valid_from = 2024-01-01, input = "1", output = "1" },
]
"""
WAITS = "no worker has upstream gpu"
CALL = {"model": "glm-4.7", "messages": [{"role": "user", "content": "hello"}]}


def written(folder: Path) -> dict[str, Path]:
    models, prices = folder / "local.toml", folder / "local-prices.toml"
    models.write_text(MODELS)
    prices.write_text(PRICES)
    return {"models_file": models, "prices_file": prices}


@pytest.fixture
async def gate(gate_with: OpenGate, tmp_path: Path) -> AsyncIterator[Gate]:
    """With a worker of the cloud's lanes only, and no beat: what nobody moves stays."""
    async with gate_with(simulator=SimulatorSettings(), **written(tmp_path)) as opened:
        await opened.services.fleet.look()
        yield opened


async def a_local_worker(gate: Gate) -> UUID:
    """One that says that it has the model, as the gateway reads it."""
    worker_id, now = new_id(), datetime.now(UTC)
    load = {GPU: RouteLoad(0, 32)}
    async with gate.database.write() as connection:
        await leases.register(
            connection, worker_id, name="gpu", lanes=("local.interactive", "local.bulk"), now=now, load=load
        )
    await gate.services.fleet.look()
    return worker_id


async def route_of(gate: Gate, task_id: str) -> str:
    return str((await seeds.row(gate.database, UUID(task_id))).route)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (f"{V4}/chat/completions", CALL),
        ("/v1/chat/completions", CALL),
        ("/v1/chat/completions", {**CALL, "stream": True}),
        ("/api/paas/v3/model-api/glm-4.7/invoke", {"prompt": CALL["messages"]}),
    ],
)
async def test_without_a_local_worker_the_cloud_answers_at_once_and_says_so(gate: Gate, path: str, body: Any) -> None:
    caller = await gate.caller()
    answer = await caller.send("POST", path, body=body)
    assert answer.status_code == 200
    assert answer.headers["x-upstream"] == CLOUD
    task = await caller.get(f"/tasks/{answer.headers['x-task-id']}")
    assert (task["model"], task["upstream"], task["upstream_model"]) == ("glm-4.7", "zhipu", "glm-4.7")
    assert [attempt["upstream"] for attempt in task["attempts"]] == ["zhipu"]


async def test_what_openais_client_says_to_the_device_the_cloud_understands(gate: Gate) -> None:
    """Its body is in the words of both, wherever it runs."""
    caller = await gate.caller()
    body = {**CALL, "temperature": 1.7, "stop": "x", "max_completion_tokens": 9, "user": "someone"}
    answer = await caller.send("POST", "/v1/chat/completions", body=body)
    assert answer.status_code == 200, answer.text


async def test_once_a_local_worker_is_there_new_tasks_are_its_own(gate: Gate) -> None:
    caller = await gate.caller()
    worker_id = await a_local_worker(gate)
    assert await route_of(gate, await caller.id_of()) == GPU
    async with gate.database.write() as connection:
        await leases.bury(connection, worker_id)
    await gate.services.fleet.look()
    assert await route_of(gate, await caller.id_of()) == CLOUD


async def test_the_gateway_looks_by_itself_again(gate: Gate) -> None:
    worker_id, now = new_id(), datetime.now(UTC)
    async with gate.database.write() as connection:
        await leases.register(
            connection, worker_id, name="gpu", lanes=("local.interactive",), now=now, load={GPU: RouteLoad(0, 32)}
        )
    await until(lambda: gate.services.fleet.why_waiting(GPU, "local.interactive") is None)


async def test_what_waits_for_a_device_says_so(gate: Gate) -> None:
    caller = await gate.caller()
    task_id = await caller.id_of(model="ours")
    task = await caller.get(f"/tasks/{task_id}")
    assert (task["state"], task["waiting_reason"], task["upstream"]) == ("queued", WAITS, None)
    (listed,) = (await caller.get("/tasks"))["data"]
    assert listed["waiting_reason"] == WAITS
    await a_local_worker(gate)
    assert (await caller.get(f"/tasks/{task_id}"))["waiting_reason"] is None
    await gate.end(await gate.claim(task_id))
    assert (await caller.get(f"/tasks/{task_id}"))["waiting_reason"] is None


async def test_readiness_says_what_nobody_has_and_where_its_tasks_go(gate: Gate) -> None:
    ready = (await gate.http.get("/readyz")).json()
    assert ready["stuck_routes"] == [{"route": GPU, "reason": WAITS, "fallbacks": [CLOUD]}]
    await a_local_worker(gate)
    assert (await gate.http.get("/readyz")).json()["stuck_routes"] == []


async def test_a_batch_via_local_waits_for_the_device(gate: Gate) -> None:
    caller = await gate.caller()
    file = await upload(caller, b"\n".join(orjson.dumps(line(n)) for n in range(3)))
    made = await caller.post("/batches", {"input_file_id": file["id"], "via": "local"}, status=201)
    lines = await lines_of(caller, made["id"])
    assert made["via"] == "local"
    assert {task["waiting_reason"] for task in lines} == {WAITS}
    assert {await route_of(gate, task["id"]) for task in lines} == {GPU}


async def lines_of(caller: Caller, batch_id: str) -> list[Any]:
    """Once they are taken in."""
    while (await caller.get(f"/batches/{batch_id}"))["state"] == "validating":
        pass
    found: list[Any] = (await caller.get("/tasks", batch_id=batch_id))["data"]
    return found


async def test_a_line_that_cannot_run_there_is_invalid(gate: Gate) -> None:
    caller = await gate.caller()
    told = await estimate(caller, {**one(), "model": "theirs"}, via="local")
    assert told["invalid"] == 1
    assert "no local route" in told["invalid_lines"][0]["message"]


async def test_an_estimate_tells_local_and_cloud_apart(gate: Gate) -> None:
    caller = await gate.caller()
    told = await estimate(caller, line(1), line(2), via="local")
    (model,) = told["models"]
    local, direct = (model["via"][way] for way in ("local", "direct"))
    assert told["via"] == "local"
    assert float(local["cost"]["likely"]) > 0
    assert local["why_no_seconds"] == f"no worker calls {GPU} now"
    assert direct["cost"] == local["cost"], "what runs first is the device, also direct"


async def test_without_a_local_upstream_no_batch_is_via_local(gate_with: OpenGate) -> None:
    async with gate_with() as plain:
        caller = await plain.caller()
        answer = await caller.send("POST", "/batches/estimate", body={"tasks": [one()], "via": "local"})
        assert refusal(answer, 400)["field"] == "via"
