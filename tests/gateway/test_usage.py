"""/usage: its sums are those of the tasks, by any dimension."""

from __future__ import annotations

import csv
import io
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from tests.gateway.gate import Caller, Gate, one, refusal
from tollgate.domain.states import Role

DIMENSIONS = ("hour", "day", "month", "project", "key", "model", "upstream", "label")
COUNTS = {
    "tasks", "tasks_succeeded", "tasks_failed", "attempts", "attempts_failed", "attempts_uncertain",
    "attempts_unpriced", "attempts_estimated", "prompt_tokens", "cached_tokens", "completion_tokens",
    "total_tokens", "engine_seconds", "cost", "possible_cost",
}  # fmt: skip


async def used(gate: Gate, caller: Caller) -> None:
    """Three succeed, of two models and labels; one fails; one is cancelled; one is open."""
    ids = [(await caller.submit(task))["id"] for task in (
        one(label="red"), one(label="blue", model="glm-4-flash"), one(label="red"), one(), one(), one()
    )]  # fmt: skip
    for task_id, cost_nano in zip(ids, (600_000, 1, 333_333_333), strict=False):
        await gate.succeed(task_id, cost_nano=cost_nano)
    await gate.fail(ids[3])
    await caller.post(f"/tasks/{ids[4]}/cancel")


async def tasks_of(caller: Caller) -> list[Any]:
    listed = (await caller.get("/tasks"))["data"]
    return [await caller.get(f"/tasks/{task['id']}") for task in listed]


def total(rows: list[Any], name: str) -> Decimal:
    return sum((Decimal(row[name]) for row in rows), Decimal(0))


@pytest.mark.parametrize("by", [*DIMENSIONS, ",".join(DIMENSIONS), "model, label"])
async def test_the_sums_by_any_dimension_are_the_tasks(gate: Gate, by: str) -> None:
    caller = await gate.caller()
    await used(gate, caller)
    tasks = await tasks_of(caller)
    usage = await caller.get("/usage", by=by)
    groups = [name.strip() for name in by.split(",")]
    assert usage["by"] == groups
    assert all(set(row) == COUNTS | set(groups) for row in usage["data"])
    assert set(usage["total"]) == COUNTS
    for told in (usage["data"], [usage["total"]]):
        assert total(told, "cost") == sum(Decimal(task["cost"] or 0) for task in tasks) == Decimal("0.333933334")
        assert total(told, "total_tokens") == sum(task["usage"]["total_tokens"] for task in tasks if task["usage"])
        assert total(told, "tasks_succeeded") == 3
        assert total(told, "tasks_failed") == 2
        assert total(told, "tasks") == 5
        assert total(told, "attempts") == 4
        assert total(told, "attempts_failed") == 1


async def test_each_group_has_its_own(gate: Gate) -> None:
    caller = await gate.caller()
    await used(gate, caller)
    by_model = {row["model"]: row["cost"] for row in (await caller.get("/usage"))["data"]}
    assert by_model == {"glm-4.7": "0.333933333", "glm-4-flash": "0.000000001"}
    by_label = {row["label"]: row["tasks"] for row in (await caller.get("/usage", by="label"))["data"]}
    assert by_label == {"": 2, "blue": 1, "red": 2}


async def test_a_csv_holds_the_same_rows(gate: Gate) -> None:
    caller = await gate.caller()
    await used(gate, caller)
    response = await caller.send("GET", "/usage", params={"by": "model,label", "format": "csv"})
    assert response.headers["content-type"] == "text/csv; charset=utf-8"
    rows = list(csv.DictReader(io.StringIO(response.text)))
    told = (await caller.get("/usage", by="model,label"))["data"]
    assert rows == [{name: str(value) for name, value in row.items()} for row in told]


class TestSpan:
    async def test_it_is_this_month_until_now_by_itself(self, gate: Gate) -> None:
        caller = await gate.caller()
        await used(gate, caller)
        usage = await caller.get("/usage")
        now = datetime.now(UTC)
        assert usage["from"] == f"{now:%Y-%m}-01T00:00:00Z"
        assert usage["to"] >= f"{now:%Y-%m-%dT%H:%M:%SZ}"
        assert usage["total"]["tasks"] == 5

    @pytest.mark.parametrize(
        ("since", "until", "start", "end"),
        [
            ("2026-01-01", "2026-02-01", "2026-01-01T00:00:00Z", "2026-02-01T00:00:00Z"),
            ("2026-01-01T10:20:00Z", "2026-01-01T10:40:00Z", "2026-01-01T10:00:00Z", "2026-01-01T11:00:00Z"),
            ("2026-01-01T08:00:00+08:00", "2026-01-02T00:00", "2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z"),
        ],
    )
    async def test_it_is_widened_to_whole_hours(
        self, sqlite_gate: Gate, since: str, until: str, start: str, end: str
    ) -> None:
        caller = await sqlite_gate.caller()
        usage = await caller.get("/usage", **{"from": since, "to": until})
        assert (usage["from"], usage["to"]) == (start, end)

    async def test_what_is_outside_is_left_out(self, gate: Gate) -> None:
        caller = await gate.caller()
        now = datetime.now(UTC)
        await used(gate, caller)
        hour = now.replace(minute=0, second=0, microsecond=0)
        before, after = (hour - timedelta(hours=1)).isoformat(), (hour + timedelta(hours=2)).isoformat()
        assert (await caller.get("/usage", **{"from": before, "to": after}))["total"]["tasks"] == 5
        assert (await caller.get("/usage", **{"from": before, "to": hour.isoformat()}))["data"] == []
        assert (await caller.get("/usage", **{"from": after, "to": "2999-01-01"}))["total"]["cost"] == "0"


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ({"by": "colour"}, "by"),
        ({"by": ""}, "by"),
        ({"by": "model,colour"}, "by"),
        ({"from": "yesterday"}, "from"),
        ({"from": "2026-02-01", "to": "2026-02-01"}, "from"),
        ({"from": "2026-02-02", "to": "2026-02-01"}, "from"),
        ({"from": "0001-01-01T00:00:00+10:00"}, "from"),
        ({"to": "9999-12-31T23:59:59-10:00"}, "to"),
        ({"format": "xml"}, "format"),
        ({"project": "\0"}, "project"),
        ({"key": "\0"}, "key"),
        ({"since": "2026-01-01"}, "since"),
    ],
    ids=repr,
)
async def test_a_wrong_query_is_refused_with_its_field(gate: Gate, query: dict[str, str], field: str) -> None:
    caller = await gate.caller()
    assert refusal(await caller.send("GET", "/usage", params=query), 400)["field"] == field


class TestWhose:
    async def test_a_project_sees_its_own_and_an_admin_any_and_all(self, gate: Gate) -> None:
        acme, other = await gate.caller(), await gate.caller(project="other")
        admin = await gate.caller(project="admins", role=Role.ADMIN)
        await gate.succeed(await acme.id_of(), cost_nano=5)
        await gate.succeed(await other.id_of(), cost_nano=7)
        costs = {
            "own": (await acme.get("/usage"))["total"]["cost"],
            "admins'": (await admin.get("/usage"))["total"]["cost"],
            "named": (await admin.get("/usage", project="other"))["total"]["cost"],
            "all": (await admin.get("/usage", project="*"))["total"]["cost"],
        }
        assert costs == {"own": "0.000000005", "admins'": "0", "named": "0.000000007", "all": "0.000000012"}
        by_project = (await admin.get("/usage", project="*", by="project"))["data"]
        assert [(row["project"], row["tasks"]) for row in by_project] == [("acme", 1), ("other", 1)]
        refusal(await admin.send("GET", "/usage?project=no-such"), 404)

    async def test_one_keys_usage_is_its_own(self, gate: Gate) -> None:
        first, second, stranger = await gate.caller(), await gate.caller(), await gate.caller(project="other")
        await gate.succeed(await first.id_of(), cost_nano=5)
        await gate.succeed(await second.id_of(), cost_nano=7)
        key_id = first.key.partition(".")[0]
        assert (await second.get("/usage", key=key_id))["total"]["cost"] == "0.000000005"
        assert (await stranger.get("/usage", key=key_id))["data"] == [], "of another project's key nothing is told"


async def test_what_the_upstream_billed_is_what_is_told(working: Gate) -> None:
    caller = await working.caller()
    made = await caller.submit([one(f"number {number} " * number, model=m) for number in range(1, 8) for m in
                                ("glm-4.7", "glm-4-flash", "glm-new")])  # fmt: skip
    for task in made["data"]:
        await caller.get(f"/tasks/{task['id']}", wait=20)
    assert working.simulator is not None
    bill = working.simulator.bill.as_json()
    told = (await caller.get("/usage"))["total"]
    for name in ("prompt_tokens", "cached_tokens", "completion_tokens", "cost"):
        assert told[name] == bill[name], name
    assert told["attempts_unpriced"] == 7
