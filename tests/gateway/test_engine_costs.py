"""What a local engine's time costs, from its settlement to what clients are told, beside what the cloud costs."""

from __future__ import annotations

import csv
import io
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from tests.gateway import test_batches
from tests.gateway.conftest import OpenGate
from tests.gateway.gate import Caller, Gate, one
from tests.store import ledgers, seeds
from tollgate.domain.ids import new_id
from tollgate.domain.usage import TokenUsage
from tollgate.store import leases, price_list
from tollgate.store.leases import RouteLoad
from worker import billing
from worker.billing import Rules

MODELS = """
[[upstream]]
name = "zhipu"
kind = "zhipu"
base_url_env = "SIMULATOR"
keys = ["SIMULATOR_KEY"]

[[upstream]]
name = "gpu"
kind = "local"

[[model]]
name = "glm-4.7"
routes = ["zhipu/glm-4.7", "gpu/glm-4-9b"]

[[model]]
name = "glm-4-9b"
routes = ["gpu/glm-4-9b"]
"""
BY_THE_SECOND = """
[[price]]
upstream = "gpu"
model = "glm-4-9b"
valid_from = 2024-01-01
engine_second = "0.0025"
tokens_per_second = 1000
alone_tokens_per_second = 100
"""
LOCAL = one(model="glm-4-9b", max_tokens=100)


@pytest.fixture
async def gate(gate_with: OpenGate, tmp_path: Path) -> AsyncIterator[Gate]:
    """With a GPU that nobody drives: its tasks end as the test says."""
    models, prices = tmp_path / "own-models.toml", tmp_path / "own-prices.toml"
    models.write_text(MODELS)
    cloud = '[[price]]\nupstream = "zhipu"\nmodel = "glm-4.7"\nvalid_from = 2024-01-01\ninput = "4"\noutput = "16"\n'
    prices.write_text(f'currency = "CNY"\n{cloud}{BY_THE_SECOND}')
    async with gate_with(models_file=models, prices_file=prices) as opened:
        yield opened


async def work(
    gate: Gate, task_id: str, *, engine_us: int, prompt_tokens: int = 100, completion_tokens: int = 50
) -> None:
    """The task is answered by whoever its route names, and billed as a worker bills it."""
    claimed = await gate.claim(task_id)
    async with gate.database.read() as connection:
        rules = Rules(prices=await price_list.load(connection))
    usage = TokenUsage(prompt_tokens=prompt_tokens, completion_tokens=completion_tokens, engine_us=engine_us)
    await gate.end(claimed, bill=billing.bill(claimed, usage, rules))


async def test_a_task_tells_the_time_it_took_of_the_engine_and_what_that_cost(gate: Gate, caller: Caller) -> None:
    task_id = (await caller.submit(LOCAL))["id"]
    await work(gate, task_id, engine_us=1_200_000)
    told = await caller.get(f"/tasks/{task_id}")
    (attempt,) = told["attempts"]
    assert (attempt["engine_seconds"], attempt["cost"], attempt["cost_estimated"]) == (1.2, "0.003", False)
    assert (attempt["tier"], told["cost"], told["unpriced"]) == ("engine", "0.003", False)
    assert attempt["price"].startswith("gpu/glm-4-9b@2024-01-01#")


async def test_a_task_whose_time_is_not_known_costs_what_its_tokens_would_and_says_so(
    gate: Gate, caller: Caller
) -> None:
    task_id = (await caller.submit(LOCAL))["id"]
    await work(gate, task_id, engine_us=0)
    (attempt,) = (await caller.get(f"/tasks/{task_id}"))["attempts"]
    assert (attempt["engine_seconds"], attempt["cost"], attempt["cost_estimated"]) == (None, "0.000375", True)
    assert (await caller.get("/usage"))["total"]["attempts_estimated"] == 1


async def test_usage_compares_the_gpu_with_the_cloud(gate: Gate, caller: Caller) -> None:
    for engine_us in (1_200_000, 1, 800_000):
        await work(gate, (await caller.submit(LOCAL))["id"], engine_us=engine_us)
    await work(gate, (await caller.submit(one()))["id"], engine_us=0)
    usage = await caller.get("/usage", by="model,upstream")
    told = {row["upstream"]: (row["total_tokens"], row["engine_seconds"], row["cost"]) for row in usage["data"]}
    assert told == {"gpu": (450, 2.000001, "0.005000002"), "zhipu": (150, 0.0, "0.0012")}
    assert usage["total"]["engine_seconds"] == 2.000001
    text = (await caller.send("GET", "/usage", params={"by": "upstream", "format": "csv"})).text
    assert [row["engine_seconds"] for row in csv.DictReader(io.StringIO(text))] == ["2.000001", "0.0"]
    assert await ledgers.differing(gate.database) == {}, "the sums are those of the attempts, to the microsecond"


async def test_a_budget_holds_what_a_task_alone_would_cost_and_is_charged_what_it_did(gate: Gate) -> None:
    caller = await gate.caller()
    admin = await gate.caller(project="admins", role="admin")
    budget = {"project": "acme", "period": "total", "limit_cost": "0.01"}
    assert (await admin.send("PUT", "/budgets", body=budget)).status_code == 200
    task_id = (await caller.submit(LOCAL))["id"]
    (held,) = (await caller.get("/budgets"))["data"]
    row = await seeds.row(gate.database, (await gate.claim(task_id)).id)
    # 100 tokens of answer alone take a second; a prompt's take a thousandth each.
    assert row.reserved_nano == 2_500_000 + row.prompt_tokens_estimate * 2_500
    assert held["reserved_cost"] == f"{row.reserved_nano / 10**9:.9f}".rstrip("0")


async def test_a_batch_tells_the_time_of_all_its_lines(gate: Gate, caller: Caller) -> None:
    made = await test_batches.taken_in(caller, test_batches.lines(3), via="local")
    for row, engine_us in zip(await test_batches.rows(gate, made["id"]), (1_000_000, 500_000), strict=False):
        assert row.route == "gpu/glm-4-9b"
        await work(gate, str(row.id), engine_us=engine_us)
    batch = await caller.get(f"/batches/{made['id']}")
    assert (batch["usage"]["engine_seconds"], batch["cost"]) == (1.5, "0.00375")
    assert await ledgers.differing(gate.database) == {}


class TestPrices:
    async def test_they_are_told_by_the_second(self, gate: Gate, caller: Caller) -> None:
        engine = {"second": "0.0025", "tokens_per_second": 1_000, "alone_tokens_per_second": 100}
        listed = {price["model"]: price for price in (await caller.get("/prices"))["data"]}
        assert (listed["glm-4-9b"]["tiers"], listed["glm-4-9b"]["engine"]) == ([], engine)
        assert listed["glm-4.7"]["engine"] is None
        models = {model["id"]: model["price"] for model in (await caller.get("/models"))["data"]}
        assert models["glm-4-9b"] == {"currency": "CNY", "tiers": [], "engine": engine}


class TestEstimates:
    async def estimate(self, caller: Caller, **fields: Any) -> Any:
        lines = [{"custom_id": f"r-{n}", **one("x" * 350, max_tokens=160)} for n in range(10)]
        return await caller.post("/batches/estimate", {"tasks": lines, **fields})

    async def test_the_gpu_stands_beside_the_cloud(self, gate: Gate, caller: Caller) -> None:
        told = await self.estimate(caller, via="local", max_cost="0.01")
        via = told["models"][0]["via"]
        # Likely are 88.4 tokens of a prompt and 40 of an answer, ten times: for 4 and 16 a million, or 1,000 a second.
        assert {name: way["cost"]["likely"] for name, way in via.items()} == {
            "direct": "0.009936", "upstream_batch": "0.004968", "local": "0.00321",
        }  # fmt: skip
        assert told["fits_max_cost"] == {"low": True, "likely": True, "high": False}
        said = " ".join(told["models"][0]["assumptions"])
        assert "Engine: gpu/glm-4-9b makes 1,000 tokens a second, as its price says: nothing was measured yet." in said

    async def test_what_was_measured_counts_from_then_on(self, gate: Gate, caller: Caller) -> None:
        async with gate.database.write() as connection:
            worker_id, now = new_id(), datetime.now(UTC)
            await leases.register(connection, worker_id, name="w", lanes=("local.bulk",), now=now)
            assert await leases.renew(connection, worker_id, load={"gpu/glm-4-9b": RouteLoad(0, 4)}, now=now)
        await work(gate, (await caller.submit({**LOCAL, "prompt": "x" * 350}))["id"], engine_us=300_000)
        lines = [{"custom_id": f"r-{n}", **one("x" * 350, model="glm-4-9b", max_tokens=160)} for n in range(10)]
        (model,) = (await caller.post("/batches/estimate", {"tasks": lines}))["models"]
        assert model["via"]["local"] == model["via"]["direct"]
        assert model["via"]["local"]["cost"] == dict.fromkeys(("low", "likely", "high"), "0.0075")
        assert model["via"]["local"]["seconds"] == pytest.approx(3.0)
        engine, time = model["assumptions"][-2:]
        assert engine.startswith("Engine: 2 ms of gpu/glm-4-9b a token (2 to 2), prompts and answers together")
        assert time.startswith("Time on gpu/glm-4-9b: what the engine will likely work for the lines, divided by 1,")
