"""Async tasks, and what a repeated request_id does."""

from __future__ import annotations

import asyncio
import time

import aiohttp
import pytest

from tests.simulator.client import LIMIT_S, Client, Reply, Start
from tollgate.simulator import Faults


async def ended(client: Client, identifier: str) -> Reply:
    """The result, once it is no longer PROCESSING."""
    async with asyncio.timeout(LIMIT_S):
        while (reply := await client.result(identifier)).body.get("task_status") == "PROCESSING":  # noqa: ASYNC110
            await asyncio.sleep(0.02)
    return reply


async def test_a_task_is_processing_until_its_latency_has_passed(start: Start) -> None:
    client = await start(latency_s=0.2)
    submitted = await client.submit("[[echo]]four", request_id="request-1")
    assert submitted.body == {
        "id": submitted.body["id"],
        "request_id": "request-1",
        "model": "glm-4.7",
        "task_status": "PROCESSING",
    }
    assert (await client.result(submitted.body["id"])).body == submitted.body
    assert client.simulator.bill.charges == 0
    result = await ended(client, submitted.body["id"])
    assert result.body["task_status"] == "SUCCESS"
    assert result.text == "four"
    assert client.simulator.bill.charges == 1
    assert (await client.result(submitted.body["id"])).raw == result.raw


async def test_a_task_can_fail_unbilled(start: Start) -> None:
    client = await start()
    submitted = await client.submit("[[fault:fail]]")
    result = await client.result(submitted.body["id"])
    assert (result.status, result.body["task_status"], result.code) == (200, "FAIL", "1234")
    assert client.simulator.bill.charges == 0


async def test_a_result_is_its_keys_own(start: Start) -> None:
    client = await start()
    identifier = (await client.submit()).body["id"]
    reply = await client.send("GET", f"/async-result/{identifier}", key="stranger.secret")
    assert (reply.status, reply.code) == (404, "1200")


async def test_the_answer_to_an_unknown_id_can_be_chosen(start: Start) -> None:
    client = await start(unknown_task_status=400, unknown_task_code="1214")
    reply = await client.result("1")
    assert (reply.status, reply.code) == (400, "1214")


async def test_a_finished_result_can_come_without_its_status(start: Start) -> None:
    client = await start(omit_task_status=True)
    result = await client.result((await client.submit()).body["id"])
    assert "task_status" not in result.body
    assert result.text


async def test_the_oldest_results_go_first(start: Start) -> None:
    client = await start(results_max=2)
    ids = [(await client.submit()).body["id"] for _ in range(3)]
    assert [(await client.result(identifier)).status for identifier in ids] == [404, 200, 200]


async def test_polls_can_fail_too(start: Start) -> None:
    client = await start(faults=Faults(task_fail=0.5), fault_polls=True)
    identifier = (await client.submit()).body["id"]
    client.simulator.change(faults={"task_fail": 0, "server_error": 1.0})
    assert (await client.result(identifier)).status == 500
    client.simulator.change(fault_polls=False)
    assert (await client.result(identifier)).status == 200


async def test_a_cut_submit_makes_a_task_that_a_replay_finds(start: Start) -> None:
    client = await start()
    with pytest.raises(aiohttp.ClientPayloadError):
        await client.submit("[[fault:once:cut]]", request_id="request-1")
    again = await client.submit("[[fault:once:cut]]", request_id="request-1")
    assert (await client.result(again.body["id"])).body["task_status"] == "SUCCESS"
    assert client.simulator.bill.charges == 1


async def test_a_spoiled_submit_makes_no_task(start: Start) -> None:
    client = await start()
    assert (await client.submit("[[fault:500]]")).status == 500
    assert (await client.submit("[[fault:garbage]]")).body is None
    assert (client.simulator.bill.charges, client.simulator.stats.in_flight) == (0, 0)


async def test_processing_tasks_count_against_the_hidden_limit(start: Start) -> None:
    client = await start(max_in_flight=1)
    identifier = (await client.submit("[[latency:0.2]]")).body["id"]
    assert (await client.submit("other")).code == "1302"
    assert (await client.chat()).code == "1302"
    await ended(client, identifier)
    assert (await client.submit("other")).status == 200


KINDS = [("async_repeat", "submit"), ("direct_repeat", "chat")]


async def repeated(client: Client, call: str) -> tuple[Reply, Reply]:
    """Two calls with one request_id, the second after the first has ended."""
    send = getattr(client, call)
    return await send(request_id="request-1"), await send(request_id="request-1")


@pytest.mark.parametrize(("setting", "call"), KINDS)
async def test_a_repeated_request_id_can_be_replayed(start: Start, setting: str, call: str) -> None:
    client = await start(**{setting: "replay"})
    first, again = await repeated(client, call)
    assert first.body == again.body
    assert client.simulator.bill.charges == 1


@pytest.mark.parametrize(("setting", "call"), KINDS)
async def test_a_repeated_request_id_can_be_rejected(start: Start, setting: str, call: str) -> None:
    client = await start(**{setting: "reject"})
    _, again = await repeated(client, call)
    assert (again.status, again.code) == (400, "1231")
    assert client.simulator.bill.charges == 1


@pytest.mark.parametrize("policy", ["bill", "reject_running"])
@pytest.mark.parametrize(("setting", "call"), KINDS)
async def test_a_repeated_request_id_can_mean_nothing(start: Start, setting: str, call: str, policy: str) -> None:
    client = await start(**{setting: policy})
    first, again = await repeated(client, call)
    assert first.body["id"] != again.body["id"]
    assert client.simulator.bill.charges == 2


@pytest.mark.parametrize(("setting", "call"), KINDS)
async def test_a_request_id_can_be_rejected_only_while_it_runs(start: Start, setting: str, call: str) -> None:
    client = await start(**{setting: "reject_running"}, latency_s=0.2)
    first, again = await asyncio.gather(*(getattr(client, call)(request_id="request-1") for _ in range(2)))
    assert sorted([first.status, again.status]) == [200, 400]


async def test_a_replay_waits_for_a_call_that_still_runs(start: Start) -> None:
    client = await start(direct_repeat="replay", latency_s=0.2)
    first, again = await asyncio.gather(*(client.chat(request_id="request-1") for _ in range(2)))
    assert first.body == again.body
    assert client.simulator.bill.charges == 1


async def test_a_request_id_is_its_keys_own(start: Start) -> None:
    client = await start(async_repeat="reject")
    body = {"model": "glm-4.7", "messages": [{"role": "user", "content": "x"}], "request_id": "request-1"}
    for key in ("one.secret", "two.secret"):
        assert (await client.send("POST", "/async/chat/completions", body=body, key=key)).status == 200


async def test_stats_tell_how_long_a_running_task_was_not_asked_for(start: Start) -> None:
    client = await start()
    made = await client.submit("[[latency:30]]")

    async def unasked_s() -> float:
        found: float = (await client.send("GET", "/simulator/stats")).body["longest_unasked_s"]
        return found

    async with asyncio.timeout(LIMIT_S):
        while await unasked_s() < 0.5:  # noqa: ASYNC110 - time itself is waited for
            await asyncio.sleep(0.05)
    asked_at = time.monotonic()
    await client.result(made.body["id"])
    assert 0 < await unasked_s() <= time.monotonic() - asked_at
