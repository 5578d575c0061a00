"""/budgets, and what a submission over one is told in each dialect."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from gateway.prices import PriceBook
from tests.gateway.gate import UNPRICED, V4, Caller, Gate, chat, one, refusal, until
from tests.store import seeds
from tollgate.domain.prices import Price, Tier
from tollgate.domain.settling import Bill
from tollgate.domain.states import Role, TaskState
from tollgate.store import price_list
from tollgate.store.database import Database

BUDGET = {
    "id", "object", "project", "key", "period", "limit_cost", "limit_tokens", "limit_tasks",
    "spent_cost", "spent_tokens", "reserved_cost", "reserved_tokens", "reserved_tasks",
    "uncertain_cost", "uncertain_tokens", "left", "currency", "created_at", "starts_on", "resets_at",
}  # fmt: skip
LIMITS = {"project": "acme", "period": "total", "limit_cost": "0.002"}
"""Room for one of `small`, whose 100 tokens out cost 0.0016 and whose prompt costs less than 0.0004."""


def small(**fields: Any) -> dict[str, Any]:
    return one(max_tokens=100, **fields)


@pytest.fixture
async def admin(gate: Gate) -> Caller:
    return await gate.caller(project="admins", role=Role.ADMIN)


async def put(admin: Caller, **changes: Any) -> Any:
    response = await admin.send("PUT", "/budgets", body={**LIMITS, **changes})
    assert response.status_code == 200, response.text
    return response.json()


class TestRefusals:
    async def test_a_submission_over_the_budget_is_a_402_with_what_is_left(
        self, gate: Gate, caller: Caller, admin: Caller
    ) -> None:
        budget = await put(admin, limit_tokens=1_000)
        await caller.submit(small())
        response = await caller.send("POST", "/tasks", body=small())
        refused = refusal(response, 402)
        (stands,) = (await caller.get("/budgets"))["data"]
        assert {"type": "budget_exceeded", "budget_id": budget["id"]}.items() <= refused.items()
        assert refused["left"] == stands["left"]
        assert float(refused["left"]["cost"]) < 0.0004
        assert f"cost left {refused['left']['cost']}, wanted up to 0.0016" in refused["message"]
        assert "Retry-After" not in response.headers
        assert len((await caller.get("/tasks"))["data"]) == 1

    async def test_a_list_is_refused_whole_and_blames_none_of_its_tasks(
        self, gate: Gate, caller: Caller, admin: Caller
    ) -> None:
        await put(admin)
        refused = refusal(await caller.send("POST", "/tasks", body=[small(), small()]), 402)
        assert "field" not in refused
        assert "tasks." not in refused["message"]
        assert (await caller.get("/tasks"))["data"] == []

    @pytest.mark.parametrize("path", ["/chat/completions", "/async/chat/completions"])
    async def test_zhipuais_wire_tells_it_as_no_balance_and_final(
        self, gate: Gate, caller: Caller, admin: Caller, path: str
    ) -> None:
        await put(admin, limit_cost="0")
        response = await caller.send("POST", V4 + path, body=chat(max_tokens=100))
        refused = refusal(response, 429)
        assert refused["code"] == "1113"
        assert "cost left 0, wanted up to 0.0016" in refused["message"]
        assert response.headers["x-should-retry"] == "false"
        assert "Retry-After" not in response.headers

    async def test_without_a_price_there_is_no_telling_what_to_reserve(
        self, gate: Gate, caller: Caller, admin: Caller
    ) -> None:
        await put(admin, limit_cost="1000")
        refused = refusal(await caller.send("POST", "/tasks", body=small(model=UNPRICED)), 402)
        assert f"model '{UNPRICED}' has no price" in refused["message"]
        assert (refused["budget_id"], refused["left"]) == (None, {})

    async def test_the_same_request_again_is_answered_over_the_budget_too(
        self, gate: Gate, caller: Caller, admin: Caller
    ) -> None:
        await put(admin)
        first = await caller.submit(small(request_id="request-1"))
        assert (await caller.submit(small(request_id="request-1"), status=200))["id"] == first["id"]

    async def test_another_projects_budget_refuses_nobody(self, gate: Gate, caller: Caller, admin: Caller) -> None:
        stranger = await gate.caller(project="another-project")
        await put(admin, limit_cost="0")
        await stranger.submit(small())

    async def test_a_failed_task_that_no_budget_let_retry_reads_as_no_balance(self, gate: Gate, caller: Caller) -> None:
        task_id = await caller.id_of()
        await gate.fail(task_id, code="budget_exceeded", message="no room")
        error = (await caller.get(f"{V4}/async-result/{task_id}"))["error"]
        assert error["code"] == "1113"


class TestBudgets:
    async def test_it_shows_what_was_set_and_what_stands_in_it(self, gate: Gate, caller: Caller, admin: Caller) -> None:
        made = await put(admin, period="month", limit_cost="12.50", limit_tokens=100_000)
        assert set(made) == BUDGET
        await gate.succeed(await caller.id_of(max_tokens=100), cost_nano=2_000_000)
        doubtful = await gate.claim(await caller.id_of(max_tokens=100))
        bill = Bill(possible_cost_nano=3_000_000, possible_tokens=110)
        lost = seeds.doubt(doubtful, state=TaskState.FAILED, bill=bill)
        await seeds.settle(gate.database, lost, now=datetime.now(UTC))
        await caller.submit(small())
        listed = await caller.get("/budgets")
        assert listed["object"] == "list"
        (shown,) = listed["data"]
        reserved = float(shown["reserved_cost"])
        assert 0.0016 < reserved < 0.002
        plain = {
            "id": made["id"], "object": "budget", "project": "acme", "key": None, "period": "month",
            "limit_cost": "12.5", "limit_tokens": 100_000, "spent_cost": "0.002", "spent_tokens": 150,
            "uncertain_cost": "0.003", "uncertain_tokens": 110, "currency": "CNY", "created_at": made["created_at"],
        }  # fmt: skip
        assert plain.items() <= shown.items()
        assert float(shown["left"]["cost"]) == pytest.approx(12.5 - 0.005 - reserved)
        assert shown["left"]["tokens"] == 100_000 - 150 - 110 - shown["reserved_tokens"]
        today = datetime.now(UTC).date()
        assert shown["starts_on"] == today.replace(day=1).isoformat()
        assert datetime.fromisoformat(shown["resets_at"]).day == 1

    async def test_one_in_total_never_resets(self, gate: Gate, caller: Caller, admin: Caller) -> None:
        made = await put(admin)
        assert (made["starts_on"], made["resets_at"], made["left"]) == (None, None, {"cost": "0.002"})

    async def test_setting_it_again_changes_it(self, gate: Gate, caller: Caller, admin: Caller) -> None:
        first = await put(admin)
        again = await put(admin, limit_cost=None, limit_tokens=5)
        assert again == {**first, "limit_cost": None, "limit_tokens": 5, "left": {"tokens": 5}}
        assert (await caller.get("/budgets"))["data"] == [again]

    async def test_a_key_can_have_one_of_its_own(self, gate: Gate, admin: Caller) -> None:
        limited, free = await gate.stored_key(), await gate.caller()
        assert (await put(admin, key=limited.id, limit_cost="0"))["key"] == limited.id
        await free.submit(small())

    async def test_a_removed_one_limits_nothing(self, gate: Gate, caller: Caller, admin: Caller) -> None:
        made = await put(admin, limit_cost="0")
        refusal(await caller.send("POST", "/tasks", body=small()), 402)
        removed = await admin.send("DELETE", f"/budgets/{made['id']}")
        assert (removed.status_code, removed.json()) == (200, made)
        await caller.submit(small())
        refusal(await admin.send("DELETE", f"/budgets/{made['id']}"), 404)

    @pytest.mark.parametrize("budget_id", ["no-such", "%00", "01970000-0000-7000-8000-000000000000"])
    async def test_what_is_no_budget_cannot_be_removed(self, admin: Caller, budget_id: str) -> None:
        refusal(await admin.send("DELETE", f"/budgets/{budget_id}"), 404)

    async def test_another_projects_are_for_admins_to_see(self, gate: Gate, caller: Caller, admin: Caller) -> None:
        await gate.key(project="other")
        theirs, mine = await put(admin, project="other"), await put(admin)
        assert (await caller.get("/budgets"))["data"] == [mine]
        assert (await caller.get("/budgets", project="acme"))["data"] == [mine]
        assert refusal(await caller.send("GET", "/budgets?project=other"), 403)["type"] == "forbidden"
        assert refusal(await caller.send("GET", "/budgets?project=*"), 403)["type"] == "forbidden"
        assert (await admin.get("/budgets"))["data"] == []
        assert (await admin.get("/budgets", project="other"))["data"] == [theirs]
        assert (await admin.get("/budgets", project="*"))["data"] == [theirs, mine]
        refusal(await admin.send("GET", "/budgets?project=no-such"), 404)
        refusal(await admin.send("GET", "/budgets?projekt=other"), 400)

    async def test_a_user_may_neither_set_nor_remove_one(self, gate: Gate, caller: Caller, admin: Caller) -> None:
        made = await put(admin)
        assert refusal(await caller.send("PUT", "/budgets", body=LIMITS), 403)["type"] == "forbidden"
        assert refusal(await caller.send("DELETE", f"/budgets/{made['id']}"), 403)["type"] == "forbidden"
        assert (await caller.get("/budgets"))["data"] == [made]

    async def test_a_project_or_key_that_is_not_there_is_not_made(self, gate: Gate, admin: Caller) -> None:
        stranger = await gate.stored_key(project="other")
        await gate.key()
        refusal(await admin.send("PUT", "/budgets", body={**LIMITS, "project": "typo"}), 404)
        refusal(await admin.send("PUT", "/budgets", body={**LIMITS, "key": stranger.id}), 404)
        assert [p["name"] for p in (await admin.get("/projects"))["data"]] == ["acme", "admins", "other"]

    @pytest.mark.parametrize(
        ("changes", "field"),
        [
            ({"project": None}, "project"),
            ({"project": ""}, "project"),
            ({"period": "week"}, "period"),
            ({"period": None}, "period"),
            ({"limit_cost": None}, "limit_cost"),
            ({"limit_cost": 12.5}, "limit_cost"),
            ({"limit_cost": "-1"}, "limit_cost"),
            ({"limit_cost": "1e3"}, "limit_cost"),
            ({"limit_cost": "1000000000"}, "limit_cost"),
            ({"limit_tokens": -1}, "limit_tokens"),
            ({"limit_tokens": 1.5}, "limit_tokens"),
            ({"limit_tokens": 10**16}, "limit_tokens"),
            ({"key": "id.secret"}, "key"),
            ({"key": "\0"}, "key"),
            ({"limit": 1}, "limit"),
        ],
    )
    async def test_what_is_wrong_is_named(self, admin: Caller, changes: dict[str, Any], field: str) -> None:
        refused = refusal(await admin.send("PUT", "/budgets", body={**LIMITS, **changes}), 400)
        assert (refused["type"], refused["field"]) == ("invalid_request", field)


class TestPrices:
    async def test_a_price_published_meanwhile_is_read_again(self, database: Database) -> None:
        await seeds.a_key(database)
        book = PriceBook(database, again_s=0.01)
        await book.start()
        try:
            now = datetime.now(UTC)
            assert book.table.find("zhipu", "glm-4.7", at=now) == seeds.PRICE
            new = Price(
                upstream="zhipu",
                model="glm-new",
                valid_from=seeds.NOW,
                currency="CNY",
                tiers=(Tier(name="flat", input_nano=1, output_nano=1),),
            )
            await price_list.publish_all(database, [new])
            await until(lambda: book.table.find("zhipu", "glm-new", at=now) == new)
        finally:
            await book.stop()

    async def test_an_outage_keeps_what_is_known(self, database: Database, caplog: pytest.LogCaptureFixture) -> None:
        await seeds.a_key(database)
        async with database.write() as connection:
            await connection.exec_driver_sql("ALTER TABLE prices RENAME TO prices_away")
        book = PriceBook(database, again_s=0.01)
        with pytest.raises(Exception, match="prices"):
            await book.start()
        async with database.write() as connection:
            await connection.exec_driver_sql("ALTER TABLE prices_away RENAME TO prices")
        await book.start()
        try:
            async with database.write() as connection:
                await connection.exec_driver_sql("ALTER TABLE prices RENAME TO prices_away")
            await until(lambda: "prices not read" in caplog.text)
            assert book.table.find("zhipu", "glm-4.7", at=datetime.now(UTC)) == seeds.PRICE
        finally:
            await book.stop()
