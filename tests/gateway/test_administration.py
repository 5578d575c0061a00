"""/keys, /projects, /models and /prices."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from tests.gateway.gate import UNPRICED, Caller, Gate, one, refusal
from tollgate.domain.states import Role

KEY = {
    "id", "project", "name", "role", "models", "may_interactive", "requests_per_minute", "tokens_per_minute",
    "max_in_flight", "created_at", "expires_at", "revoked_at",
}  # fmt: skip


@pytest.fixture
async def admin(gate: Gate) -> Caller:
    return await gate.caller(project="admins", role=Role.ADMIN)


class TestKeys:
    async def test_a_new_key_works_at_once_and_is_shown_once(self, gate: Gate, admin: Caller) -> None:
        made = await admin.post("/keys", {"project": "new"}, status=201)
        assert set(made) == KEY | {"key"}
        plain = {"project": "new", "name": "key", "role": "user", "models": None, "may_interactive": True}
        assert {**plain, "expires_at": None, "revoked_at": None}.items() <= made.items()
        assert made["key"].startswith(made["id"] + ".")
        await Caller(http=gate.http, key=made["key"]).submit(one())
        listed = await admin.send("GET", "/keys", params={"project": "new"})
        assert listed.json()["data"] == [{name: made[name] for name in KEY}]
        assert made["key"].partition(".")[2] not in listed.text

    async def test_everything_about_it_can_be_said(self, gate: Gate, admin: Caller) -> None:
        given = {
            "project": "项目",
            "name": "名字",
            "role": "admin",
            "models": ["glm-4.7", "flash"],
            "may_interactive": False,
            "expires_at": "2035-01-01T08:00:00+08:00",
        }
        made = await admin.post("/keys", given, status=201)
        shown = {**given, "models": ["flash", "glm-4.7"], "expires_at": "2035-01-01T00:00:00Z"}
        assert shown.items() <= made.items()
        limited = Caller(http=gate.http, key=made["key"])
        assert [m["id"] for m in (await limited.get("/models"))["data"]] == ["glm-4.7", "glm-4-flash"]

    async def test_a_revoked_key_is_refused_and_stays_listed(self, gate: Gate, admin: Caller) -> None:
        made = await admin.post("/keys", {"project": "new"}, status=201)
        caller = Caller(http=gate.http, key=made["key"])
        await caller.get("/models")
        revoked = await admin.send("DELETE", f"/keys/{made['id']}")
        assert revoked.status_code == 200
        assert revoked.json()["revoked_at"] is not None
        assert refusal(await caller.send("GET", "/models"), 401)["reason"] == "revoked"
        again = await admin.send("DELETE", f"/keys/{made['id']}")
        assert again.json() == revoked.json(), "a second time changes nothing"
        assert [key["id"] for key in (await admin.get("/keys", project="new"))["data"]] == [made["id"]]

    @pytest.mark.parametrize("key_id", ["no-such-key", "%00", "a.b", "0" * 65])
    async def test_what_is_no_key_cannot_be_revoked(self, admin: Caller, key_id: str) -> None:
        refusal(await admin.send("DELETE", f"/keys/{key_id}"), 404)

    async def test_all_are_listed_by_project(self, gate: Gate, admin: Caller) -> None:
        await gate.key(project="b")
        await gate.key(project="a")
        assert [key["project"] for key in (await admin.get("/keys"))["data"]] == ["a", "admins", "b"]
        refusal(await admin.send("GET", "/keys?project=no-such"), 404)
        refusal(await admin.send("GET", "/keys?project=%00"), 400)
        refusal(await admin.send("GET", "/keys?projekt=a"), 400)

    @pytest.mark.parametrize(
        ("given", "field"),
        [
            ({}, "project"),
            ({"project": ""}, "project"),
            ({"project": "p" * 65}, "project"),
            ({"project": "p\n"}, "project"),
            ({"project": 1}, "project"),
            ({"project": "p", "name": ""}, "name"),
            ({"project": "p", "role": "root"}, "role"),
            ({"project": "p", "models": []}, "models"),
            ({"project": "p", "models": "glm-4.7"}, "models"),
            ({"project": "p", "may_interactive": 1}, "may_interactive"),
            ({"project": "p", "expires_at": "soon"}, "expires_at"),
            ({"project": "p", "colour": "red"}, "colour"),
            ({"project": "p", "models": ["gpt"]}, "model"),
        ],
        ids=repr,
    )
    async def test_a_wrong_body_is_refused_with_its_field(
        self, sqlite_gate: Gate, given: dict[str, Any], field: str
    ) -> None:
        admin = await sqlite_gate.caller(role=Role.ADMIN)
        assert refusal(await admin.send("POST", "/keys", body=given), 400)["field"] == field
        refusal(await admin.send("POST", "/keys", body=[given]), 400)
        assert len((await admin.get("/keys"))["data"]) == 1


class TestProjects:
    async def test_they_are_made_once_and_listed(self, admin: Caller) -> None:
        made = await admin.post("/projects", {"name": "new"}, status=201)
        assert set(made) == {"id", "name", "keep_prompts", "keep_results", "created_at"}
        assert await admin.post("/projects", {"name": "new"}, status=201) == made
        assert [project["name"] for project in (await admin.get("/projects"))["data"]] == ["admins", "new"]

    @pytest.mark.parametrize("body", [{}, {"name": ""}, {"name": "\0"}, {"name": "n", "x": 1}, [], None])
    async def test_a_wrong_body_is_refused(self, sqlite_gate: Gate, body: Any) -> None:
        admin = await sqlite_gate.caller(role=Role.ADMIN)
        refusal(await admin.send("POST", "/projects", content=json.dumps(body)), 400)


class TestModelsAndPrices:
    async def test_models_are_listed_with_where_they_run_and_what_they_cost(self, caller: Caller) -> None:
        listed = {model["id"]: model for model in (await caller.get("/models"))["data"]}
        assert list(listed) == ["glm-4.7", "glm-4-flash", UNPRICED, "embedding-3"]
        glm = listed["glm-4.7"]
        assert glm | {"price": None} == {
            "id": "glm-4.7",
            "object": "model",
            "endpoint": "chat",
            "routes": ["zhipu/glm-4.7"],
            "fallback_on": [],
            "fallback_after": 2,
            "place": "cloud",
            "max_output_tokens": 131072,
            "context_tokens": None,
            "deprecated": None,
            "aliases": [],
            "price": None,
        }
        assert glm["price"]["currency"] == "CNY"
        (tier,) = glm["price"]["tiers"]
        assert {"input": "4", "output": "16", "cached": "1"}.items() <= tier.items()
        assert listed[UNPRICED]["price"] is None
        assert listed["glm-4-flash"]["price"]["tiers"][0]["input"] == "0"

    async def test_prices_are_those_in_force(self, caller: Caller) -> None:
        prices = await caller.get("/prices")
        assert prices["currency"] == "CNY"
        assert [(price["upstream"], price["model"]) for price in prices["data"]] == [
            ("zhipu", "glm-4-flash"),
            ("zhipu", "glm-4.7"),
        ]
        assert all(datetime.fromisoformat(price["valid_from"]) < datetime.now(UTC) for price in prices["data"])
