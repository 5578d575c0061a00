"""POST /tasks/{id}/cancel: a queued task ends, a running one is asked to, an ended one stays."""

from __future__ import annotations

import asyncio

import pytest

from tests.gateway.gate import LIMIT_S, V4, Caller, Gate, refusal, until
from tollgate.broker.bus import CANCEL


async def test_a_queued_task_ends_at_once(caller: Caller, gate: Gate) -> None:
    task_id = await caller.id_of()
    shown = await caller.post(f"/tasks/{task_id}/cancel")
    assert (shown["status"], shown["state"], shown["attempts"]) == ("FAIL", "cancelled", [])
    assert shown["error"]["code"] == "cancelled"
    assert shown["ended_at"] is not None
    result = await caller.get(f"{V4}/async-result/{task_id}")
    assert (result["task_status"], result["error"]["code"]) == ("FAIL", "1200")


async def test_who_waits_for_it_is_told(caller: Caller, gate: Gate) -> None:
    task_id = await caller.id_of()
    asking = asyncio.create_task(caller.get(f"/tasks/{task_id}", wait=100))
    await until(lambda: gate.services.waiters.waiting)
    await caller.post(f"/tasks/{task_id}/cancel")
    assert (await asyncio.wait_for(asking, LIMIT_S))["state"] == "cancelled"


async def test_a_running_task_is_asked_to_end_and_its_worker_is_told(caller: Caller, gate: Gate) -> None:
    told: list[str] = []
    gate.services.bus.subscribe(CANCEL, lambda ids: told.extend(str(one) for one in ids))
    task_id = await caller.id_of()
    await gate.claim(task_id)
    shown = await caller.post(f"/tasks/{task_id}/cancel")
    assert (shown["status"], shown["state"]) == ("PROCESSING", "running")
    asked_at = shown["cancel_requested_at"]
    assert asked_at is not None
    again = await caller.post(f"/tasks/{task_id}/cancel")
    assert again["cancel_requested_at"] == asked_at
    assert told == [task_id] * 2


async def test_a_running_call_is_stopped(working: Gate) -> None:
    caller = await working.caller()
    task_id = await caller.id_of(prompt="[[latency:60]]")
    simulator = working.simulator
    assert simulator is not None
    await until(lambda: simulator.stats.in_flight)
    await caller.post(f"/tasks/{task_id}/cancel")
    shown = await caller.get(f"/tasks/{task_id}", wait=LIMIT_S)
    assert shown["state"] == "cancelled"
    assert shown["attempts"][0]["outcome"] == "uncertain", "it was sent, and may be billed"
    assert shown["possible_cost"] is not None


@pytest.mark.parametrize("ended", ["succeeded", "failed", "cancelled"])
async def test_what_has_ended_stays_as_it_is(caller: Caller, gate: Gate, ended: str) -> None:
    task_id = await caller.id_of()
    if ended == "succeeded":
        await gate.succeed(task_id)
    elif ended == "failed":
        await gate.fail(task_id)
    else:
        await caller.post(f"/tasks/{task_id}/cancel")
    before = await caller.get(f"/tasks/{task_id}")
    assert await caller.post(f"/tasks/{task_id}/cancel") == before
    assert before["state"] == ended


@pytest.mark.parametrize("task_id", ["no-id", "01970000-0000-7000-8000-000000000000", "%00"])
async def test_what_is_not_there_is_not_found(caller: Caller, task_id: str) -> None:
    assert refusal(await caller.send("POST", f"/tasks/{task_id}/cancel"), 404)["type"] == "not_found"
