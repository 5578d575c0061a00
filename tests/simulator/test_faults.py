"""Faults: by rate, repeatable under a seed, and by a hook in a prompt."""

from __future__ import annotations

import asyncio

import aiohttp
import orjson
import pytest

from tests.simulator.client import LIMIT_S, Client, Start
from tollgate.simulator import Faults, SimulatorSettings, faults
from tollgate.simulator.faults import FaultKind, Stream


def drawn(seed: int) -> list[FaultKind | None]:
    rates = Faults(rate_limit=0.1, server_error=0.2)
    return [
        faults.decide(rates, drawn=faults.draw(seed, number=number, stream=Stream.FAULTS)).kind
        for number in range(1, 2001)
    ]


def test_a_seed_fixes_every_fault_and_rates_are_met() -> None:
    assert drawn(1) == drawn(1)
    assert drawn(1) != drawn(2)
    assert 150 < drawn(1).count(FaultKind.RATE_LIMIT) < 250
    assert 330 < drawn(1).count(FaultKind.SERVER_ERROR) < 470


def test_a_jittered_latency_stays_around_its_mean() -> None:
    settings = SimulatorSettings(latency_s=1.0, latency_jitter_s=0.5)
    values = [faults.latency_s(settings, number=number) for number in range(1, 1001)]
    assert 0.5 <= min(values) < 0.52
    assert 1.48 < max(values) <= 1.5
    assert 0.95 < sum(values) / 1000 < 1.05


@pytest.mark.parametrize(
    ("hook", "status", "code"),
    [
        ("429", 429, "1302"),
        ("500", 500, "500"),
        ("sensitive", 400, "1301"),
        ("1113", 429, "1113"),
        ("1234", 500, "1234"),
        ("rate_limit", 429, "1302"),
    ],
)
async def test_a_hook_brings_an_unbilled_error(start: Start, hook: str, status: int, code: str) -> None:
    client = await start()
    reply = await client.chat(f"[[fault:{hook}]] please")
    assert (reply.status, reply.code) == (status, code)
    assert client.simulator.bill.charges == 0
    assert sum(client.simulator.stats.faults.values()) == 1


@pytest.mark.parametrize("text", ["[[fault:nonsense]]", "[[fault:code]]", "[[tokens:]]", "[[x]]"])
async def test_an_unknown_hook_is_text(start: Start, text: str) -> None:
    assert (await (await start()).chat(text)).status == 200


async def test_only_the_last_user_message_is_read_for_hooks(start: Start) -> None:
    messages = [{"role": "user", "content": "[[fault:500]]"}, {"role": "user", "content": "well"}]
    assert (await (await start()).chat(messages=messages)).status == 200


@pytest.mark.parametrize(("times", "failures"), [("once", 1), ("3x", 3)])
async def test_a_counted_fault_ends_after_its_tries(start: Start, times: str, failures: int) -> None:
    client = await start()
    statuses = [(await client.chat(f"[[fault:{times}:500]]")).status for _ in range(failures + 2)]
    assert statuses == [500] * failures + [200, 200]


@pytest.mark.parametrize("code", ["1303", "1305", "1312", "1113"])
async def test_the_code_of_a_rate_limit_can_be_chosen(start: Start, code: str) -> None:
    client = await start(faults=Faults(rate_limit=1), rate_limit_code=code, retry_after_s=2.5)
    reply = await client.chat()
    assert (reply.status, reply.code, reply.headers["Retry-After"]) == (429, code, "2.5")


async def test_a_rate_limit_and_a_server_error_can_come_without_a_code(start: Start) -> None:
    client = await start(rate_limit_code="none", server_error_code="none", server_error_status=503)
    limited, broken = await client.chat("[[fault:429]]"), await client.chat("[[fault:500]]")
    assert (limited.status, limited.body) == (429, None)
    assert (broken.status, broken.body) == (503, None)


async def test_garbage_takes_four_forms_by_turns_and_is_unbilled(start: Start) -> None:
    client = await start(faults=Faults(garbage=1))
    replies = [await client.chat() for _ in range(8)]
    assert {reply.status for reply in replies} == {200}
    assert [reply.raw[:9] for reply in replies[:4]] == [reply.raw[:9] for reply in replies[4:]]
    assert replies[1].body == {"code": 500, "msg": "404 NOT_FOUND", "success": False}
    assert replies[2].raw.startswith(b'{"id"')
    assert replies[2].body is None
    assert replies[3].headers["Content-Type"].startswith("text/html")
    assert client.simulator.bill.charges == 0


async def test_a_cut_answer_breaks_off_and_is_billed(start: Start) -> None:
    client = await start()
    with pytest.raises(aiohttp.ClientPayloadError):
        await client.chat("[[fault:cut]]")
    assert client.simulator.bill.charges == 1


async def test_bill_errors_bills_what_was_spoiled(start: Start) -> None:
    client = await start(bill_errors=True)
    await client.chat("[[fault:500]]")
    await client.chat("[[fault:garbage]]")
    await client.chat("[[fault:429]]")
    assert client.simulator.bill.charges == 2


@pytest.mark.parametrize(("kind", "text"), [("finish_sensitive", ""), ("network_error", "12")])
async def test_an_abnormal_finish_is_billed(start: Start, kind: str, text: str) -> None:
    client = await start()
    reply = await client.chat(f"[[fault:{kind}]][[echo]]1234")
    assert reply.body["choices"][0]["finish_reason"] == kind.removeprefix("finish_")
    assert reply.text == text
    assert client.simulator.bill.charges == 1


async def in_flight(client: Client, count: int) -> None:
    """Until so many calls are."""
    async with asyncio.timeout(LIMIT_S):
        while client.simulator.stats.in_flight < count:  # noqa: ASYNC110 - the simulator has no event for it
            await asyncio.sleep(0.01)


async def idle(client: Client) -> None:
    """Until nothing is in flight."""
    async with asyncio.timeout(LIMIT_S):
        while client.simulator.stats.in_flight:  # noqa: ASYNC110 - the simulator has no event for it
            await asyncio.sleep(0.01)


async def test_a_hang_lasts_until_the_client_leaves(start: Start) -> None:
    client = await start()
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(client.chat("[[fault:hang]]"), timeout=0.3)
    await idle(client)
    assert client.simulator.bill.charges == 0


async def test_a_simulator_with_a_hanging_call_can_be_stopped(start: Start) -> None:
    client = await start()
    call = asyncio.create_task(client.chat("[[fault:hang]]"))
    await in_flight(client, 1)
    async with asyncio.timeout(LIMIT_S):
        await client.simulator.__aexit__(None, None, None)
    with pytest.raises(aiohttp.ClientError):
        await call


async def test_a_client_that_leaves_during_the_latency_is_billed(start: Start) -> None:
    client = await start(latency_s=0.3)
    call = asyncio.create_task(client.chat())
    await in_flight(client, 1)
    call.cancel()
    assert client.simulator.bill.charges == 0
    with pytest.raises(asyncio.CancelledError):
        await call
    await idle(client)
    assert client.simulator.bill.charges == 1


async def test_above_the_hidden_limit_calls_are_refused(start: Start) -> None:
    client = await start(max_in_flight=2)
    slow = [asyncio.create_task(client.chat("[[latency:1]]")) for _ in range(2)]
    await in_flight(client, 2)
    assert (await client.chat()).code == "1302"
    await asyncio.gather(*slow)
    assert (await client.chat()).status == 200
    assert client.simulator.stats.peak_in_flight == 2


async def test_a_run_can_be_repeated_by_naming_its_seed(start: Start) -> None:
    client = await start(faults=Faults(rate_limit=0.3, server_error=0.3), seed=5)
    first = [(await client.chat()).status for _ in range(30)]
    reply = await client.send("PUT", "/simulator/settings", raw=orjson.dumps({"seed": 5}))
    assert reply.status == 200
    assert [(await client.chat()).status for _ in range(30)] == first
    assert len(set(first)) == 3
