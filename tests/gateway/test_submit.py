"""POST /tasks: one or many, all or nothing, as they came."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest

from tests.gateway.conftest import OpenGate
from tests.gateway.gate import UNPRICED, V4, Caller, Gate, chat, one, refusal
from tests.gateway.upstream import Upstream
from tests.store import seeds
from tollgate.store import schema

MB = 1024 * 1024


async def size(gate: Gate) -> int:
    return await seeds.size(gate.database, schema.tasks)


async def sent_upstream(gate: Gate, task_id: str) -> Any:
    """The body as its worker gets it."""
    (claimed,) = await seeds.claim(gate.database, UUID(task_id), now=datetime.now(UTC))
    return json.loads(claimed.body)


async def test_one_task_is_answered_with_its_id(caller: Caller) -> None:
    made = await caller.submit(one(custom_id="mine", request_id="request-1"))
    assert made == {
        "id": made["id"],
        "object": "task",
        "status": "PROCESSING",
        "state": "queued",
        "duplicate": False,
        "custom_id": "mine",
        "request_id": "request-1",
    }


@pytest.mark.parametrize("wrap", [lambda tasks: tasks, lambda tasks: {"tasks": tasks}], ids=["array", "object"])
async def test_a_list_is_answered_in_its_order(caller: Caller, wrap: Any) -> None:
    names = [f"c{number}" for number in range(20)]
    made = await caller.submit(wrap([one(custom_id=name) for name in names]))
    assert made["object"] == "list"
    assert [task["custom_id"] for task in made["data"]] == names
    shown = await caller.get("/tasks", id=",".join(task["id"] for task in made["data"]))
    assert [task["custom_id"] for task in shown["data"]] == names


@pytest.mark.parametrize("body", [[], {"tasks": []}, {"tasks": {}}, {"tasks": None}, 1, None, "text"])
async def test_what_holds_no_task_is_refused(sqlite_gate: Gate, body: Any) -> None:
    caller = await sqlite_gate.caller()
    refused = refusal(await caller.send("POST", "/tasks", content=json.dumps(body)), 400)
    assert refused["field"] == "tasks"
    assert "1 to 10000 tasks" in refused["allowed"]


async def test_what_stands_beside_a_list_is_refused_not_ignored(sqlite_gate: Gate) -> None:
    caller = await sqlite_gate.caller()
    body = {"tasks": [one()], "priority": "bulk"}
    assert refusal(await caller.send("POST", "/tasks", body=body), 400)["field"] == "priority"


@pytest.mark.parametrize("item", [1, None, "text", []])
async def test_an_item_that_is_no_object_is_named(sqlite_gate: Gate, item: Any) -> None:
    caller = await sqlite_gate.caller()
    assert refusal(await caller.send("POST", "/tasks", body=[one(), item]), 400)["field"] == "tasks.1"


async def test_ten_thousand_tasks_are_accepted_and_one_more_is_not(caller: Caller, gate: Gate) -> None:
    tasks = [one(f"number {number}") for number in range(10_001)]
    refused = refusal(await caller.send("POST", "/tasks", body=tasks), 413)
    assert refused["type"] == "too_large"
    assert "10,000" in refused["message"]
    made = await caller.submit(tasks[:-1])
    assert len({task["id"] for task in made["data"]}) == 10_000
    assert await size(gate) == 10_000
    shown = await caller.get("/tasks", id=made["data"][-1]["id"])
    assert shown["data"][0]["priority"] == "bulk", "a list over 100"


async def test_a_list_is_all_or_nothing(caller: Caller, gate: Gate) -> None:
    bad = [one(), one(), one(temperature=3), one()]
    assert refusal(await caller.send("POST", "/tasks", body=bad), 400)["field"] == "tasks.2.temperature"
    assert await size(gate) == 0


@pytest.mark.parametrize(
    ("bad", "field"),
    [({"model": "no-such-model"}, "model"), ({"max_tokens": 10**6}, "max_tokens"), ({"expires_at": 1}, "expires_at")],
)
async def test_what_admission_refuses_is_named_with_its_index(sqlite_gate: Gate, bad: Any, field: str) -> None:
    caller = await sqlite_gate.caller()
    refused = refusal(await caller.send("POST", "/tasks", body=[one(), one(**bad)]), 400)
    assert refused["field"] == f"tasks.1.{field}"
    assert refusal(await caller.send("POST", "/tasks", body=one(**bad)), 400)["field"] == field
    assert await size(sqlite_gate) == 0


async def test_an_unknown_model_is_answered_with_the_known_ones(sqlite_gate: Gate) -> None:
    caller = await sqlite_gate.caller()
    refused = refusal(await caller.send("POST", "/tasks", body=one(model="gpt")), 400)
    assert refused["type"] == "unknown_model"
    assert refused["known"] == ["embedding-3", "glm-4-flash", "glm-4.7", "glm-new"]
    v4 = refusal(await caller.send("POST", V4 + "/chat/completions", body=chat(model="gpt")), 400)
    assert v4["code"] == "1211"
    assert "glm-4.7" in v4["message"]


async def test_an_alias_is_taken_and_shown_as_it_was_asked_for(sqlite_gate: Gate) -> None:
    caller = await sqlite_gate.caller()
    assert (await caller.get(f"/tasks/{await caller.id_of(model='flash')}"))["model"] == "flash"


class TestTheBody:
    """What leaves for the upstream, and what stays."""

    async def test_unknown_parameters_pass_and_the_gateways_own_and_nulls_do_not(self, gate: Gate) -> None:
        caller = await gate.caller()
        passes = {"temperature": 0, "future_parameter": {"a": [1, None]}, "user_id": "user-1"}
        own = {"custom_id": "c", "label": "l", "metadata": {"m": 1}, "priority": "bulk", "on_uncertain": "fail"}
        nulls = {"response_format": None, "thinking": None, "seed": None, "no_such": None}
        task_id = await caller.id_of(prompt="hi", request_id="request-1", stream=False, **passes, **own, **nulls)
        assert await sent_upstream(gate, task_id) == {**chat("hi"), **passes}

    async def test_v4_sends_what_came_without_request_id_and_nulls(self, gate: Gate) -> None:
        caller = await gate.caller()
        body = chat(request_id="request-1", stream=False, meta={"x": 1}, thinking=None, sensitive_word_check=None)
        made = await caller.post(V4 + "/async/chat/completions", body)
        assert await sent_upstream(gate, made["id"]) == chat(meta={"x": 1})

    async def test_it_reaches_a_real_upstream_as_it_came(self, gate_with: OpenGate, upstream: Upstream) -> None:
        async with gate_with(upstream=upstream.base_url) as gate:
            caller = await gate.caller()
            task_id = await caller.id_of(prompt="héllo 你好 \u2028", future_parameter=[1.5, "x"])
            shown = await caller.get(f"/tasks/{task_id}", wait=20)
        assert shown["status"] == "SUCCESS"
        (body,) = upstream.bodies
        assert body.pop("request_id") == shown["attempts"][0]["request_id"]
        assert body == {**chat("héllo 你好 \u2028"), "future_parameter": [1.5, "x"]}

    async def test_texts_with_nul_and_every_plane_survive(self, gate: Gate) -> None:
        caller = await gate.caller()
        text = "\0 \x1f \x7f \u2028 \uffff 😀 \\u0000"
        task_id = await caller.id_of(prompt=text, metadata={text: text})
        assert (await caller.get(f"/tasks/{task_id}"))["metadata"] == {text: text}
        assert (await sent_upstream(gate, task_id))["messages"][0]["content"] == text

    async def test_metadata_comes_back_as_it_went(self, caller: Caller) -> None:
        metadata = {"a": [1, 2.5, None, True, {"b": ""}], "ü": "✓", "": {}, "big": 2**63, "deep": [[[[[]]]]]}
        task_id = await caller.id_of(metadata=metadata)
        assert (await caller.get(f"/tasks/{task_id}"))["metadata"] == metadata
        assert (await caller.get("/tasks"))["data"][0]["metadata"] == metadata
        assert (await caller.get(f"/tasks/{await caller.id_of()}"))["metadata"] is None


class TestBadJson:
    """It is refused as a whole, in each dialect's form, and harms nobody in the same commit."""

    @pytest.mark.parametrize(
        "raw",
        [
            b"",
            b"{",
            b"{'model': 1}",
            b'{"model": NaN}',
            b'{"model": "\\ud800"}',
            b'{"model": "\\udc00\\ud800"}',
            b'{"model": "\xff"}',
            b'{"model": "\xed\xa0\x80"}',
            "{}".encode("utf-16"),
            b"\xef\xbb\xbf{}",
            b"[" * 100_000,
        ],
        ids=repr,
    )
    async def test_what_is_no_json_is_refused(self, sqlite_gate: Gate, raw: bytes) -> None:
        caller = await sqlite_gate.caller()
        refused = refusal(await caller.send("POST", "/tasks", content=raw), 400)
        assert (refused["field"], refused["allowed"]) == ("body", "JSON")
        assert refusal(await caller.send("POST", V4 + "/chat/completions", content=raw), 400)["code"] == "1210"

    @pytest.mark.parametrize("where", ["metadata", "tools", "messages"])
    async def test_what_is_nested_too_deeply_is_refused(self, sqlite_gate: Gate, where: str) -> None:
        caller = await sqlite_gate.caller()
        deep: Any = {}
        for _ in range(260):
            deep = {"d": deep}
        message = {"role": "user", "content": [{"type": "text", "text": "t", "x": deep}]}
        given = {"metadata": deep, "tools": [deep], "messages": [message]}[where]
        refused = refusal(await caller.send("POST", "/tasks", body={**chat(), where: given}), 400)
        assert refused["allowed"] == "at most 250 levels"

    async def test_what_is_nested_as_deeply_as_is_allowed_is_served(self, caller: Caller) -> None:
        deep: Any = {}
        for _ in range(247):
            deep = {"d": deep}
        task_id = await caller.id_of(metadata=deep)
        assert (await caller.get("/tasks", id=task_id))["data"][0]["metadata"] == deep

    @pytest.mark.parametrize("body", [[1], 1, None, "x"])
    async def test_a_v4_body_that_is_no_object_is_refused(self, sqlite_gate: Gate, body: Any) -> None:
        caller = await sqlite_gate.caller()
        raw = json.dumps(body)
        assert refusal(await caller.send("POST", V4 + "/chat/completions", content=raw), 400)["code"] == "1210"

    async def test_its_neighbours_are_accepted(self, gate: Gate) -> None:
        caller = await gate.caller()
        lone = b'{"model":"glm-4.7","prompt":"\\ud800"}'
        good = [caller.send("POST", "/tasks", body=one(f"\0 {number}")) for number in range(10)]
        bad = [caller.send("POST", "/tasks", content=lone) for _ in range(10)]
        answers = await asyncio.gather(*good, *bad)
        assert [answer.status_code for answer in answers] == [202] * 10 + [400] * 10
        assert await size(gate) == 10


class TestTooLarge:
    async def test_a_body_over_32_mb_is_refused_by_its_length_and_by_its_bytes(self, sqlite_gate: Gate) -> None:
        caller = await sqlite_gate.caller()
        raw = json.dumps(one("x" * (32 * MB))).encode()

        async def chunked() -> AsyncIterator[bytes]:
            for start in range(0, len(raw), MB):
                yield raw[start : start + MB]

        for content in (raw, chunked()):
            refused = refusal(await caller.send("POST", "/tasks", content=content), 413)
            assert refused["type"] == "too_large"
        v4 = refusal(await caller.send("POST", V4 + "/chat/completions", content=raw), 413)
        assert v4["code"] == "1210"

    async def test_a_body_just_below_it_is_accepted(self, gate: Gate) -> None:
        caller = await gate.caller()
        empty = len(json.dumps(one("")).encode())
        await caller.submit(one("x" * (32 * MB - empty)))


class TestTimes:
    async def test_a_task_for_later_does_not_run_before(self, working: Gate) -> None:
        caller = await working.caller()
        later = await caller.id_of(prompt="later", run_after=(datetime.now(UTC) + timedelta(hours=1)).isoformat())
        now = await caller.id_of(prompt="now")
        assert (await caller.get(f"/tasks/{now}", wait=20))["status"] == "SUCCESS"
        shown = await caller.get(f"/tasks/{later}")
        assert (shown["state"], shown["tries"], shown["attempts"]) == ("queued", 0, [])
        assert shown["not_before"] > shown["created_at"]

    async def test_times_are_shown_in_utc(self, caller: Caller) -> None:
        task_id = await caller.id_of(run_after="2035-01-01T08:00:00+08:00", expires_at=2_051_308_800)
        shown = await caller.get(f"/tasks/{task_id}")
        assert shown["not_before"] == "2035-01-01T00:00:00Z"
        assert shown["expires_at"] == "2035-01-02T00:00:00Z"


async def test_a_model_without_a_price_is_shown_as_unpriced(working: Gate) -> None:
    caller = await working.caller()
    shown = {
        model: await caller.get(f"/tasks/{await caller.id_of(model=model)}", wait=20)
        for model in (UNPRICED, "glm-4-flash", "glm-4.7")
    }
    assert [(task["unpriced"], task["cost"] is None) for task in shown.values()] == [
        (True, True),
        (False, False),
        (False, False),
    ]
    assert shown["glm-4-flash"]["cost"] == "0", "free is a price"
    assert shown[UNPRICED]["usage"]["total_tokens"] > 0


async def test_a_project_uses_at_most_a_thousand_labels(caller: Caller, gate: Gate) -> None:
    await caller.submit([one(label=f"l{number}") for number in range(1_000)])
    assert refusal(await caller.send("POST", "/tasks", body=one(label="one-more")), 400)["field"] == "label"
    await caller.submit(one(label="l7"))
    other = await gate.caller(project="other")
    await other.submit(one(label="one-more"))
