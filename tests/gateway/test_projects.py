"""A project sees only its own, and a key does only what it may."""

from __future__ import annotations

import pytest

from tests.gateway.gate import V4, Gate, chat, one, refusal
from tollgate.domain.ids import new_id
from tollgate.domain.states import Role

STRANGERS = "another-project"


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/tasks/{id}"),
        ("GET", "/tasks/{id}?wait=1"),
        ("POST", "/tasks/{id}/cancel"),
        ("GET", V4 + "/async-result/{id}"),
    ],
)
async def test_another_projects_task_is_not_found(gate: Gate, method: str, path: str) -> None:
    owner, stranger = await gate.caller(), await gate.caller(project=STRANGERS)
    task_id = await owner.id_of()
    refused = refusal(await stranger.send(method, path.format(id=task_id)), 404)
    unknown = str(new_id())
    absent = refusal(await stranger.send(method, path.format(id=unknown)), 404)
    assert refused["message"].replace(task_id, unknown) == absent["message"], "told as one that never was"
    assert (await owner.get(f"/tasks/{task_id}"))["state"] == "queued", "untouched"


async def test_an_admin_has_no_other_projects_tasks_either(gate: Gate) -> None:
    owner, admin = await gate.caller(), await gate.caller(project=STRANGERS, role=Role.ADMIN)
    refusal(await admin.send("GET", f"/tasks/{await owner.id_of()}"), 404)


@pytest.mark.parametrize(
    "query",
    [
        {},
        {"label": "l"},
        {"custom_id": "c"},
        {"request_id": "request-1"},
        {"model": "glm-4.7"},
        {"state": "PROCESSING"},
    ],
)
async def test_lists_leave_another_projects_tasks_out(gate: Gate, query: dict[str, str]) -> None:
    owner, stranger = await gate.caller(), await gate.caller(project=STRANGERS)
    await owner.submit(one(label="l", custom_id="c", request_id="request-1"))
    assert (await stranger.get("/tasks", **query))["data"] == []
    assert len((await owner.get("/tasks", **query))["data"]) == 1


async def test_by_ids_another_projects_tasks_are_missing(gate: Gate) -> None:
    owner, stranger = await gate.caller(), await gate.caller(project=STRANGERS)
    theirs, mine = await owner.id_of(), await stranger.id_of()
    found = await stranger.get("/tasks", id=f"{theirs},{mine}")
    assert [task["id"] for task in found["data"]] == [mine]
    assert found["missing"] == [theirs]


async def test_a_batch_of_nobodys_has_no_tasks(gate: Gate) -> None:
    caller = await gate.caller()
    await caller.id_of()
    assert (await caller.get("/tasks", batch_id=str(new_id())))["data"] == []


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/keys"),
        ("POST", "/keys"),
        ("DELETE", "/keys/any"),
        ("GET", "/projects"),
        ("POST", "/projects"),
        ("GET", f"/usage?project={STRANGERS}"),
        ("GET", "/usage?project=*"),
        ("GET", "/usage?project=no-such-project"),
    ],
)
async def test_what_is_for_admins_is_forbidden_to_users(gate: Gate, method: str, path: str) -> None:
    await gate.key(project=STRANGERS)
    user = await gate.caller()
    assert refusal(await user.send(method, path), 403)["type"] == "forbidden"


async def test_a_user_may_name_its_own_project(gate: Gate) -> None:
    user = await gate.caller()
    assert (await user.get("/usage", project="acme"))["data"] == []


async def test_a_key_limited_to_models_is_refused_others(gate: Gate) -> None:
    limited = await gate.caller(models=frozenset({"glm-4.7"}))
    await limited.submit(one())
    native = refusal(await limited.send("POST", "/tasks", body=one(model="glm-4-flash")), 403)
    assert "glm-4.7" in native["message"]
    v4 = await limited.send("POST", V4 + "/chat/completions", body=chat(model="glm-4-flash"))
    assert refusal(v4, 403)["code"] == "1220"
    assert [model["id"] for model in (await limited.get("/models"))["data"]] == ["glm-4.7"]


async def test_a_list_with_one_model_too_many_is_refused_whole(gate: Gate) -> None:
    limited = await gate.caller(models=frozenset({"glm-4.7"}))
    refused = refusal(await limited.send("POST", "/tasks", body=[one(), one(model="glm-4-flash")]), 403)
    assert refused["message"].startswith("tasks.1: ")
    assert (await limited.get("/tasks"))["data"] == []


async def test_a_key_without_the_right_to_interactive_works_in_bulk(gate: Gate) -> None:
    bulk = await gate.caller(may_interactive=False)
    refusal(await bulk.send("POST", "/tasks", body=one(priority="interactive")), 403)
    assert (await bulk.get(f"/tasks/{await bulk.id_of()}"))["priority"] == "bulk"
    submitted = await bulk.post(V4 + "/async/chat/completions", chat())
    assert (await bulk.get(f"/tasks/{submitted['id']}"))["priority"] == "bulk"
