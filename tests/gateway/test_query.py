"""GET /tasks and GET /tasks/{id}: many by id, or a page of a list."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.gateway.gate import ANSWER, Caller, Gate, one, refusal
from tollgate.domain.ids import new_id

TASK = {
    "id", "object", "status", "state", "model", "endpoint", "custom_id", "request_id", "label", "metadata", "priority",
    "batch_id", "line", "created_at", "started_at", "ended_at", "not_before", "expires_at", "cancel_requested_at",
    "tries", "waiting_reason", "error", "callback_url", "upstream", "upstream_model",
    "erased", "prompt_erased",
}  # fmt: skip
BOUGHT = {"result", "usage", "cost", "possible_cost", "unpriced", "currency", "attempts"}


def names(answer: Any) -> list[str]:
    return [task["custom_id"] for task in answer["data"]]


async def test_a_task_shows_what_it_is_and_what_was_bought(gate: Gate) -> None:
    caller = await gate.caller()
    task_id = await caller.id_of(label="l")
    fresh = await caller.get(f"/tasks/{task_id}")
    assert set(fresh) == TASK | BOUGHT
    nothing: dict[str, Any] = {
        "result": None,
        "error": None,
        "usage": None,
        "cost": None,
        "possible_cost": None,
        "attempts": [],
    }
    assert nothing.items() <= fresh.items()

    await gate.succeed(task_id)
    shown = await caller.get(f"/tasks/{task_id}")
    assert (shown["status"], shown["state"]) == ("SUCCESS", "succeeded")
    assert shown["result"] == json.loads(ANSWER)
    assert shown["usage"] == {"prompt_tokens": 100, "cached_tokens": 20, "completion_tokens": 50, "total_tokens": 150}
    assert (shown["cost"], shown["currency"], shown["unpriced"]) == ("0.0006", "CNY", False)
    (attempt,) = shown["attempts"]
    assert (attempt["number"], attempt["outcome"], attempt["tries"], attempt["cost"]) == (1, "succeeded", 1, "0.0006")
    assert shown["created_at"] <= shown["started_at"] <= shown["ended_at"]


async def test_a_failed_task_shows_its_error(gate: Gate) -> None:
    caller = await gate.caller()
    task_id = await caller.id_of()
    await gate.fail(task_id, code="1301", message="unsafe")
    shown = await caller.get(f"/tasks/{task_id}")
    assert (shown["status"], shown["state"]) == ("FAIL", "failed")
    assert shown["error"] == {"code": "1301", "message": "unsafe"}
    assert shown["attempts"][0]["error"] == {"code": "1301", "message": "unsafe"}


class TestByIds:
    async def test_they_come_in_the_order_asked_and_once(self, caller: Caller) -> None:
        ids = [await caller.id_of() for _ in range(5)]
        asked = [ids[3], ids[0], ids[3], ids[4]]
        found = await caller.get("/tasks", id=" , ".join(asked))
        assert [task["id"] for task in found["data"]] == [ids[3], ids[0], ids[4]]
        assert found["missing"] == []

    async def test_what_is_not_there_is_missing(self, caller: Caller) -> None:
        task_id, unknown = await caller.id_of(), str(new_id())
        found = await caller.get("/tasks", id=f"no-id,{task_id},{unknown}")
        assert [task["id"] for task in found["data"]] == [task_id]
        assert found["missing"] == ["no-id", unknown]

    async def test_a_thousand_are_answered_and_one_more_is_refused(self, caller: Caller) -> None:
        made = await caller.submit([one(f"number {number}") for number in range(1_001)])
        ids = [task["id"] for task in made["data"]]
        found = await caller.get("/tasks", id=",".join(ids[:1_000]))
        assert [task["id"] for task in found["data"]] == ids[:1_000]
        refused = refusal(await caller.send("GET", "/tasks", params={"id": ",".join(ids)}), 400)
        assert (refused["field"], refused["allowed"]) == ("id", "1 to 1000 ids, comma-separated")

    @pytest.mark.parametrize("query", [{"id": ""}, {"id": ",,"}, {"id": "x", "state": "FAIL"}])
    async def test_no_id_and_a_filter_beside_them_are_refused(self, sqlite_gate: Gate, query: dict[str, str]) -> None:
        caller = await sqlite_gate.caller()
        refused = refusal(await caller.send("GET", "/tasks", params=query), 400)
        assert refused["field"] in query


class TestFilters:
    @pytest.fixture
    async def five(self, gate: Gate, caller: Caller) -> list[dict[str, Any]]:
        """a queued, b running, c succeeded, d failed, e cancelled; newest last."""
        given = [
            one(custom_id="a", label="red"),
            one(custom_id="b", label="red", model="glm-4-flash"),
            one(custom_id="c", request_id="request-c"),
            one(custom_id="d", label="blue"),
            one(custom_id="e"),
        ]
        ids = [(await caller.submit(task))["id"] for task in given]
        await gate.claim(ids[1])
        await gate.succeed(ids[2])
        await gate.fail(ids[3])
        await caller.post(f"/tasks/{ids[4]}/cancel")
        return [await caller.get(f"/tasks/{task_id}") for task_id in ids]

    @pytest.mark.parametrize(
        ("query", "found"),
        [
            ({}, "edcba"),
            ({"state": "queued"}, "a"),
            ({"state": "running"}, "b"),
            ({"state": "succeeded"}, "c"),
            ({"state": "failed"}, "d"),
            ({"state": "cancelled"}, "e"),
            ({"state": "expired"}, ""),
            ({"state": "PROCESSING"}, "ba"),
            ({"state": "SUCCESS"}, "c"),
            ({"state": "FAIL"}, "ed"),
            ({"model": "glm-4-flash"}, "b"),
            ({"model": "no-such"}, ""),
            ({"label": "red"}, "ba"),
            ({"label": "red", "state": "running"}, "b"),
            ({"custom_id": "d"}, "d"),
            ({"request_id": "request-c"}, "c"),
            ({"created_from": "{c}"}, "edc"),
            ({"created_to": "{c}"}, "ba"),
            ({"created_from": "{b}", "created_to": "{d}"}, "cb"),
            ({"created_from": "2020-01-01"}, "edcba"),
            ({"created_to": "2020-01-01T00:00:00"}, ""),
            ({"limit": "2"}, "ed"),
        ],
        ids=repr,
    )
    async def test_a_list_holds_what_fits_newest_first(
        self, caller: Caller, five: list[dict[str, Any]], query: dict[str, str], found: str
    ) -> None:
        at = {task["custom_id"]: task["created_at"] for task in five}
        assert names(await caller.get("/tasks", **{k: v.format(**at) for k, v in query.items()})) == list(found)

    async def test_results_come_where_they_are_asked_for(self, caller: Caller, five: Any) -> None:
        without = (await caller.get("/tasks", state="SUCCESS"))["data"][0]
        assert set(without) == TASK
        with_result = (await caller.get("/tasks", state="SUCCESS", include="result"))["data"][0]
        assert with_result == {**without, "result": json.loads(ANSWER)}


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ({"limit": "0"}, "limit"),
        ({"limit": "1001"}, "limit"),
        ({"limit": "many"}, "limit"),
        ({"state": "done"}, "state"),
        ({"after": "no-id"}, "after"),
        ({"batch_id": "no-id"}, "batch_id"),
        ({"include": "everything"}, "include"),
        ({"created_from": "yesterday"}, "created_from"),
        ({"created_to": "9999-12-31T23:59:59-10:00"}, "created_to"),
        ({"created_from": "0001-01-01T00:00:00+10:00"}, "created_from"),
        ({"label": "\0"}, "label"),
        ({"custom_id": "a\0b"}, "custom_id"),
        ({"request_id": ""}, "request_id"),
        ({"model": "m\n"}, "model"),
        ({"wait": "-1"}, "wait"),
        ({"wait": "301"}, "wait"),
        ({"wait": "nan"}, "wait"),
        ({"stat": "queued"}, "stat"),
    ],
    ids=repr,
)
async def test_a_wrong_query_is_refused_with_its_field(gate: Gate, query: dict[str, str], field: str) -> None:
    caller = await gate.caller()
    refused = refusal(await caller.send("GET", "/tasks", params=query), 400)
    assert (refused["type"], refused["field"]) == ("invalid_request", field)


@pytest.mark.parametrize("page", [1, 3, 10])
async def test_pages_have_no_gap_and_no_repeat_while_new_tasks_come_in(caller: Caller, page: int) -> None:
    made = await caller.submit([one(custom_id=f"c{number}") for number in range(10)])
    seen: list[str] = []
    after: dict[str, str] = {}
    while True:
        answer = await caller.get("/tasks", limit=page, **after)
        seen += [task["id"] for task in answer["data"]]
        assert len(answer["data"]) <= page
        if not answer["has_more"]:
            break
        after = {"after": answer["last_id"]}
        await caller.id_of(custom_id="new")
    assert seen == [task["id"] for task in reversed(made["data"])]
    last = await caller.get("/tasks", after=seen[-1])
    assert last == {"object": "list", "data": [], "has_more": False, "last_id": None}
