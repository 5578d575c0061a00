"""The bill, the counters and the settings, over HTTP."""

from __future__ import annotations

import csv
import io
from dataclasses import fields
from typing import Any

import orjson
import pytest

from tests.simulator.client import Start
from tollgate.domain.errors import SettingsError
from tollgate.domain.usage import TokenUsage
from tollgate.simulator import Faults, SimulatorSettings, batch_settings
from tollgate.simulator.bill import Bill
from tollgate.simulator.embeddings import vector
from tollgate.simulator.settings import CHECKS


async def test_the_bill_prices_prompt_cache_and_completion(start: Start) -> None:
    client = await start()
    messages = [{"role": "system", "content": "x" * 64}, {"role": "user", "content": "[[tokens:100]]"}]
    await client.chat(messages=messages)  # 16 + 4 and 4 + 4 prompt tokens, 16 of them cached
    bill = (await client.send("GET", "/simulator/bill")).body
    assert bill["by_model"].keys() == {"glm-4.7"}
    del bill["by_model"]
    assert bill == {
        "charges": 1,
        "prompt_tokens": 28,
        "cached_tokens": 16,
        "completion_tokens": 100,
        "cost": "0.001664",  # (12 x 4 + 16 x 1 + 100 x 16) / 1,000,000
        "cost_nano": 1_664_000,
        "batch_charges": 0,
    }


async def test_the_csv_has_one_row_a_charge(start: Start) -> None:
    client = await start(check_request_id=False)
    replies = [await client.chat(request_id='odd, "id"\n'), await client.chat(model="glm-4-flash")]
    raw = (await client.send("GET", "/simulator/bill.csv")).raw.decode()
    rows = list(csv.DictReader(io.StringIO(raw, newline="")))
    assert [row["id"] for row in rows] == [reply.body["id"] for reply in replies]
    assert rows[0]["request_id"] == 'odd, "id"\n'
    assert rows[1]["request_id"] == replies[1].body["id"]
    assert rows[1]["cost"] == "0"
    assert [int(row["completion_tokens"]) for row in rows] == [
        reply.body["usage"]["completion_tokens"] for reply in replies
    ]
    assert list(rows[0]) == [
        "request_id",
        "id",
        "model",
        "prompt_tokens",
        "cached_tokens",
        "completion_tokens",
        "cost",
        "created",
        "batch",
    ]


async def test_the_bill_can_be_cleared(start: Start) -> None:
    client = await start()
    await client.chat()
    assert (await client.send("DELETE", "/simulator/bill")).status == 204
    assert (await client.send("GET", "/simulator/bill")).body["charges"] == 0
    assert (await client.send("GET", "/simulator/bill.csv")).raw.count(b"\n") == 1


def test_a_hundred_thousand_charges_stay_small() -> None:
    bill, used = Bill(), TokenUsage(prompt_tokens=100, completion_tokens=50)
    for number in range(100_000):
        bill.add(used, price=None, model="glm-4.7", request_id=f"r{number:035}", identifier=f"{number:019}", created=1)
    assert sum(len(piece) for piece in bill.csv()) < 12_000_000
    assert bill.totals.prompt_tokens == 10_000_000


async def test_stats_count_requests_faults_and_refusals(start: Start) -> None:
    client = await start()
    await client.chat()
    await client.chat("[[fault:429]]")
    await client.submit("[[latency:30]]")
    stats = (await client.send("GET", "/simulator/stats")).body
    assert stats["requests"] == 3
    assert stats["requests_by_endpoint"] == {"chat": 2, "async": 1}
    assert stats["faults"] == {"rate_limit": 1}
    assert stats["refusals"] == {"1302": 1}
    assert (stats["in_flight"], stats["processing"], stats["peak_in_flight"]) == (1, 1, 1)


async def test_settings_change_while_it_runs(start: Start) -> None:
    client = await start(seed=3, faults=Faults(cut=0.1))
    changes = {"latency_s": 0.01, "faults": {"rate_limit": 0.9}, "accept_keys": ["tester"]}
    reply = await client.send("PUT", "/simulator/settings", body=changes)
    assert reply.body == (await client.send("GET", "/simulator/settings")).body
    assert reply.body["seed"] == 3
    assert reply.body["faults"]["cut"] == 0.1
    assert reply.body["faults"]["rate_limit"] == 0.9
    assert client.simulator.settings.accept_keys == ("tester",)


async def test_settings_come_back_as_they_were_shown(start: Start) -> None:
    client = await start(refuse_keys={"x": "1113"}, accept_keys=("a", "b.c"))
    shown = (await client.send("GET", "/simulator/settings")).body
    assert (await client.send("PUT", "/simulator/settings", body=shown)).body == shown


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (b"{", "not JSON"),
        (b"[]", "JSON object"),
        (b'{"latency":1}', "latency: no such setting"),
        (b'{"latency_s":-1}', "latency_s: -1 is not a number from 0"),
        (b'{"latency_s":"1"}', "latency_s"),
        (b'{"faults":{"cut":2}}', "faults.cut: 2 is not a number from 0 to 1"),
        (b'{"faults":{"cat":0}}', "faults.cat: no such setting"),
        (b'{"faults":{"cut":0.6,"hang":0.6}}', "add up to 1.2"),
        (b'{"faults":3}', "faults: 3 is not"),
        (b'{"async_repeat":"maybe"}', "one of replay, reject"),
        (b'{"refuse_keys":{"x":"1302"}}', "refuse_keys"),
        (b'{"rate_limit_code":"1301"}', "rate_limit_code"),
        (b'{"bill_errors":1}', "true or false"),
        (b'{"batches":{"failed":2}}', "batches.failed: 2 is not a number from 0 to 1"),
        (b'{"batches":{"failed":0.6,"missing":0.6}}', "add up to 1.2"),
        (b'{"batches":{"counts":"float"}}', "batches.counts: 'float' is not one of object"),
        (b'{"batches":{"faults_on":["chat"]}}', "batches.faults_on"),
        (b'{"batches":{"speed":1}}', "batches.speed: no such setting"),
    ],
)
async def test_a_wrong_setting_is_named_and_changes_nothing(start: Start, changes: bytes, said: str) -> None:
    client = await start()
    reply = await client.send("PUT", "/simulator/settings", raw=changes)
    assert reply.status == 400
    assert said in reply.body["error"]["message"]
    assert client.simulator.settings == SimulatorSettings()


def test_every_setting_is_checked() -> None:
    assert set(CHECKS) == {item.name for item in fields(SimulatorSettings)}
    assert set(batch_settings.CHECKS) == {item.name for item in fields(batch_settings.Batches)}


async def test_a_batch_setting_leaves_its_neighbours(start: Start) -> None:
    client = await start(batches=batch_settings.Batches(failed=0.25))
    shown = await client.send("PUT", "/simulator/settings", body={"batches": {"faults_on": ["batch_create"]}})
    assert (shown.body["batches"]["failed"], shown.body["batches"]["faults_on"]) == (0.25, ["batch_create"])


def test_a_wrong_setting_cannot_be_built() -> None:
    with pytest.raises(SettingsError, match="max_in_flight"):
        SimulatorSettings(max_in_flight=0)


async def test_embeddings_are_deterministic_unit_vectors_and_billed(start: Start) -> None:
    client = await start()
    body = {"model": "embedding-3", "input": ["hello", "world"]}
    reply = await client.send("POST", "/embeddings", body=body)
    vectors = [item["embedding"] for item in reply.body["data"]]
    assert vectors[0] == vector("hello", model="embedding-3", dimensions=8)
    assert vectors[0] != vectors[1]
    assert sum(value * value for value in vectors[0]) == pytest.approx(1, abs=1e-4)
    assert reply.body["usage"]["prompt_tokens"] == 4
    assert client.simulator.bill.cost_nano == 4_000


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"input": None}, "1213"),
        ({"input": []}, "1214"),
        ({"input": ["x"] * 65}, "1214"),
        ({"input": "x", "dimensions": 0}, "1214"),
        ({"input": "x", "model": "glm-4.7"}, "1212"),
    ],
)
async def test_wrong_embeddings_are_refused(start: Start, fields: dict[str, Any], code: str) -> None:
    reply = await (await start()).send("POST", "/embeddings", body={"model": "embedding-3", **fields})
    assert (reply.status, reply.code) == (400, code)


async def test_the_control_port_needs_no_key(start: Start) -> None:
    client = await start(refuse_keys={"*": "1113"})
    reply = await client.send("PUT", "/simulator/settings", raw=orjson.dumps({"refuse_keys": {}}), key=None)
    assert reply.status == 200
