"""Batches, with ZhipuAI's own SDK: their life, their files, their bill."""

from __future__ import annotations

import asyncio
import csv
import io
from typing import Any

import pytest
from zhipuai import APIRequestFailedError, APIStatusError

from tests.simulator.batching import Batching, jsonl, line, prompts
from tests.simulator.client import Start
from tollgate.simulator import Faults


async def test_each_line_is_answered_once_and_as_a_direct_call_would_be(start: Start) -> None:
    batching = await Batching.begin(start)
    batch = await batching.run(prompts(250))
    assert (batch.status, batch.error_file_id, batch.completion_window) == ("completed", None, "24h")
    counts = batch.request_counts
    assert (counts.total, counts.completed, counts.failed) == (250, 250, 0)
    output = await batching.parsed(batch.output_file_id)
    assert list(output) == [f"request-{number}" for number in range(250)]
    body = output["request-7"]["response"]["body"]
    direct = (await batching.client.chat("prompt 7")).body
    assert (body["choices"], body["usage"]) == (direct["choices"], direct["usage"])
    assert body["request_id"] == "request-7"


async def test_a_line_costs_half_of_a_direct_call_and_the_bill_says_batch(start: Start) -> None:
    batching = await Batching.begin(start)
    batch = await batching.run(jsonl(line("[[tokens:101]]", custom_id="request-1")))
    direct = await batching.client.chat("[[tokens:101]]", request_id="request-2")
    raw = (await batching.client.send("GET", "/simulator/bill.csv")).raw.decode()
    rows = {row["request_id"]: row for row in csv.DictReader(io.StringIO(raw))}
    halves = [float(rows["request-1"]["cost"]) * 2, float(rows["request-2"]["cost"])]
    assert halves[0] == halves[1] > 0
    assert [rows[name]["batch"] for name in ("request-1", "request-2")] == [batch.id, ""]
    assert rows["request-2"]["id"] == direct.body["id"]
    totals = batching.client.simulator.bill
    assert (totals.charges, totals.batch_charges) == (2, 1)


async def test_a_body_can_bring_its_own_request_id(start: Start) -> None:
    batching = await Batching.begin(start)
    await batching.run(jsonl(line("x", custom_id="short", request_id="task-1-attempt-1")))
    raw = (await batching.client.send("GET", "/simulator/bill.csv")).raw
    assert b"\ntask-1-attempt-1," in raw


async def test_embeddings_run_in_batches_too(start: Start) -> None:
    batching = await Batching.begin(start)
    one = {"custom_id": "request-1", "method": "POST", "url": "/v1/embeddings"}
    one["body"] = {"model": "embedding-3", "input": ["a", "b"]}  # type: ignore[assignment]
    batch = await batching.run(jsonl(one), endpoint="/v4/embeddings")
    output = await batching.parsed(batch.output_file_id)
    assert len(output["request-1"]["response"]["body"]["data"]) == 2
    assert batching.client.simulator.bill.cost_nano == 1_000  # two tokens at 1 a million, halved


@pytest.mark.parametrize(
    "content",
    [
        b"\xef\xbb\xbf" + prompts(3),
        prompts(3).replace(b"\n", b"\r\n"),
        b"\n\n" + prompts(3).replace(b"\n", b"\n \n"),
        prompts(3).rstrip(b"\n"),
        prompts(3).replace(b"/v4/", b"/v1/"),
    ],
    ids=["mark", "crlf", "blank", "no-end", "v1"],
)
async def test_the_form_of_the_file_does_not_matter(start: Start, content: bytes) -> None:
    batching = await Batching.begin(start)
    batch = await batching.run(content)
    assert len(await batching.parsed(batch.output_file_id)) == 3


@pytest.mark.parametrize(
    ("bad", "code"),
    [
        (b"{", "invalid_json_line"),
        (b"[]", "invalid_json_line"),
        (jsonl(line("x", custom_id="")), "missing_required_parameter"),
        (jsonl(line("x", custom_id="request-0")), "duplicate_custom_id"),
        (jsonl(line("x", custom_id="other", url="/v4/embeddings")), "invalid_value"),
        (jsonl(line("x", custom_id="other") | {"method": "GET"}), "invalid_value"),
        (jsonl(line("x", custom_id="other") | {"body": 3}), "invalid_request"),
    ],
)
async def test_a_bad_line_fails_the_batch_and_is_named(start: Start, bad: bytes, code: str) -> None:
    batching = await Batching.begin(start)
    batch = await batching.run(prompts(2) + bad)
    assert batch.status == "failed"
    assert [(error.code, error.line) for error in batch.errors.data] == [(code, 3)]
    assert batching.client.simulator.bill.charges == 0


async def test_a_bad_line_can_fail_alone(start: Start) -> None:
    batching = await Batching.begin(start, bad_lines="error_file")
    batch = await batching.run(prompts(2) + b"{\n" + jsonl(line("x", custom_id="request-0")))
    assert (batch.status, batch.request_counts.failed) == ("completed", 2)
    assert len(await batching.read(batch.error_file_id)) == 2


@pytest.mark.parametrize(("count", "code"), [(0, "empty_file"), (4, "too_many_lines")])
async def test_a_file_has_lines_and_not_too_many(start: Start, count: int, code: str) -> None:
    batching = await Batching.begin(start, lines_max=3)
    batch = await batching.run(prompts(count) or b"\n")
    assert (batch.status, batch.errors.data[0].code) == ("failed", code)


async def test_a_wrong_parameter_and_a_hooked_fault_fail_their_lines_unbilled(start: Start) -> None:
    batching = await Batching.begin(start)
    lines = [line("x", custom_id="wrong", temperature=3)]
    lines += [line(f"[[fault:{name}]]", custom_id=name) for name in ("429", "500", "sensitive", "1261", "fail")]
    batch = await batching.run(jsonl(*lines, line("well", custom_id="well")))
    errors = await batching.parsed(batch.error_file_id)
    codes = {name: found["response"]["body"]["error"]["code"] for name, found in errors.items()}
    assert codes == {"wrong": "1210", "429": "1302", "500": "500", "sensitive": "1301", "1261": "1261", "fail": "1234"}
    assert list(await batching.parsed(batch.output_file_id)) == ["well"]
    assert (batch.request_counts.completed, batch.request_counts.failed) == (1, 6)
    assert batching.client.simulator.bill.charges == 1


async def test_the_share_that_fails_is_the_seeds(start: Start) -> None:
    failed = []
    for seed in (1, 1, 2):
        batching = await Batching.begin(start, failed=0.3, settings={"seed": seed})
        batch = await batching.run(prompts(200))
        failed.append(set(await batching.parsed(batch.error_file_id)))
        assert batching.client.simulator.bill.charges == 200 - len(failed[-1])
    assert failed[0] == failed[1] != failed[2]
    assert 30 < len(failed[0]) < 90


async def test_unfinished_lines_expire_and_the_finished_are_kept(start: Start) -> None:
    batching = await Batching.begin(start, unfinished=0.3, window_s=0.3)
    batch = await batching.run(prompts(100))
    assert batch.status == "expired"
    assert batch.expired_at >= batch.expires_at
    output, errors = [await batching.parsed(name) for name in (batch.output_file_id, batch.error_file_id)]
    assert {found["error"]["code"] for found in errors.values()} == {"batch_expired"}
    assert len(output) + len(errors) == 100
    assert batching.client.simulator.bill.charges == len(output)


async def test_a_batch_slower_than_its_window_expires_where_it_stands(start: Start) -> None:
    batching = await Batching.begin(start, latency_s=4.0, window_s=1.5, expired_lines="missing")
    batch = await batching.run(prompts(40))
    assert (batch.status, batch.error_file_id) == ("expired", None)
    assert 0 < batch.request_counts.completed < 40
    assert len(await batching.read(batch.output_file_id)) == batch.request_counts.completed


async def test_the_states_are_seen_on_the_way(start: Start) -> None:
    batching = await Batching.begin(start, latency_s=1.0)
    created = await batching.create(prompts(40))
    seen = [created.status]
    for state in ("in_progress", "finalizing", "completed"):
        batch = await batching.reach(created.id, state)
        seen.append(batch.status)
        if state == "in_progress":
            assert batch.output_file_id is None
    assert seen == ["validating", "in_progress", "finalizing", "completed"]
    assert batch.created_at <= batch.in_progress_at <= batch.finalizing_at <= batch.completed_at


async def test_a_cancel_keeps_what_is_finished_and_stops_the_bill(start: Start) -> None:
    batching = await Batching.begin(start, latency_s=6.0)
    created = await batching.create(prompts(1000))
    async with asyncio.timeout(10):
        while (await batching.get(created.id)).request_counts.completed == 0:  # noqa: ASYNC110 - over HTTP
            await asyncio.sleep(0.02)
    assert (await asyncio.to_thread(batching.sdk.batches.cancel, created.id)).status == "cancelling"
    batch = await batching.reach(created.id)
    output = await batching.parsed(batch.output_file_id)
    assert batch.status == "cancelled"
    assert 0 < len(output) < 1000
    assert batching.client.simulator.bill.charges == len(output)


async def test_a_cancel_while_validating_ends_without_a_charge(start: Start) -> None:
    batching = await Batching.begin(start, latency_s=5.0)
    created = await batching.create(prompts(10))
    await asyncio.to_thread(batching.sdk.batches.cancel, created.id)
    batch = await batching.reach(created.id)
    assert (batch.status, batch.in_progress_at, batch.output_file_id) == ("cancelled", None, None)
    assert batching.client.simulator.bill.charges == 0


async def test_a_cancel_after_the_end_changes_nothing(start: Start) -> None:
    batching = await Batching.begin(start)
    batch = await batching.run(prompts(1))
    assert await asyncio.to_thread(batching.sdk.batches.cancel, batch.id) == batch


async def test_lists_are_paged_newest_first_and_end_empty(start: Start) -> None:
    batching = await Batching.begin(start)
    made = [(await batching.run(prompts(1), metadata={"turn": str(turn)})).id for turn in range(5)]

    def read() -> list[Any]:
        return list(batching.sdk.batches.list(limit=2))

    found = await asyncio.to_thread(read)
    assert [batch.id for batch in found] == made[::-1]
    assert [batch.metadata["turn"] for batch in found] == ["4", "3", "2", "1", "0"]


@pytest.mark.parametrize(
    "fields",
    [
        {"endpoint": "/v4/images"},
        {"completion_window": "1h"},
        {"metadata": {str(number): "x" for number in range(17)}},
        {"metadata": {"key": "x" * 513}},
        {"input_file_id": "no-such-file"},
    ],
)
async def test_a_wrong_batch_is_refused(start: Start, fields: dict[str, Any]) -> None:
    batching = await Batching.begin(start)
    file = await batching.upload(prompts(1))
    asked = {"endpoint": "/v4/chat/completions", "input_file_id": file.id} | fields
    with pytest.raises((APIRequestFailedError, APIStatusError)):
        await asyncio.to_thread(batching.sdk.batches.create, **asked)


async def test_batches_are_their_keys_own(start: Start) -> None:
    batching = await Batching.begin(start)
    batch = await batching.run(prompts(1))
    for method, path in (("GET", f"/batches/{batch.id}"), ("POST", f"/batches/{batch.id}/cancel")):
        assert (await batching.client.send(method, path, key="other.secret")).status == 404
    assert (await batching.client.send("GET", "/batches", key="other.secret")).body["data"] == []


async def test_a_create_whose_answer_is_lost_has_made_its_batch(start: Start) -> None:
    batching = await Batching.begin(start, faults_on=("batch_create",), settings={"faults": Faults(cut=1.0)})
    with pytest.raises(Exception, match=r"(?i)connection|incomplete|peer"):
        await batching.create(prompts(2), metadata={"mine": "1"})
    found = (await batching.client.send("GET", "/batches")).body["data"]
    assert [batch["metadata"] for batch in found] == [{"mine": "1"}]


async def test_a_create_that_fails_has_made_none(start: Start) -> None:
    batching = await Batching.begin(start, faults_on=("batch_create",), settings={"faults": Faults(server_error=1.0)})
    with pytest.raises(Exception, match="500"):
        await batching.create(prompts(2))
    assert (await batching.client.send("GET", "/batches")).body["data"] == []


async def test_fifty_thousand_lines_leave_other_calls_their_turn(start: Start) -> None:
    batching = await Batching.begin(start)
    created = await batching.create(prompts(50_000))
    calls = 0
    async with asyncio.timeout(120):
        while (await batching.get(created.id)).status not in {"completed", "failed"}:
            await batching.client.chat("meanwhile")
            calls += 1
    assert (await batching.get(created.id)).request_counts.completed == 50_000
    assert calls > 5, "each had its turn among lines, not after them all"
