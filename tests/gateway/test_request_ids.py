"""A request_id makes one task of its project, however often and by whichever dialect it is sent."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.gateway.gate import V4, Caller, Gate, chat, one, refusal

ID = "order-0001"
PATHS = ["/tasks", V4 + "/async/chat/completions", V4 + "/chat/completions"]


async def ended_with_a_request_id(working: Gate, caller: Caller) -> str:
    made = await caller.submit(chat(request_id=ID))
    await caller.get(f"/tasks/{made['id']}", wait=20)
    return str(made["id"])


async def test_the_same_body_gives_the_same_task(caller: Caller) -> None:
    made = await caller.submit(one(request_id=ID))
    again = await caller.submit(one(request_id=ID), status=200)
    assert again == {**made, "duplicate": True}
    listed = await caller.submit([one(request_id=ID), one(request_id=ID)], status=200)
    assert [task["id"] for task in listed["data"]] == [made["id"]] * 2


async def test_a_list_with_something_new_is_accepted(caller: Caller) -> None:
    made = await caller.submit(one(request_id=ID))
    listed = (await caller.submit([one(), one(request_id=ID)], status=202))["data"]
    assert [task["duplicate"] for task in listed] == [False, True]
    assert listed[1]["id"] == made["id"]


async def test_nulls_and_how_the_answer_is_wanted_make_no_other_body(caller: Caller) -> None:
    made = await caller.submit(one(request_id=ID, seed=None))
    again = await caller.submit(one(request_id=ID, stream=False, label=None), status=200)
    assert again["id"] == made["id"]


@pytest.mark.parametrize(
    "other", [{"label": "l"}, {"custom_id": "c"}, {"metadata": {"m": 1}}, {"priority": "bulk"}, {"run_after": 4e9}]
)
async def test_the_gateways_own_fields_are_part_of_the_body(sqlite_gate: Gate, other: dict[str, Any]) -> None:
    caller = await sqlite_gate.caller()
    await caller.submit(one(request_id=ID))
    refusal(await caller.send("POST", "/tasks", body=one(request_id=ID, **other)), 409)


@pytest.mark.parametrize("path", PATHS)
async def test_an_ended_task_is_given_by_every_way_of_asking(working: Gate, path: str) -> None:
    caller = await working.caller()
    task_id = await ended_with_a_request_id(working, caller)
    answer = await caller.post(path, chat(request_id=ID))
    assert answer["id"] == task_id
    if path == "/tasks":
        assert (answer["state"], answer["duplicate"]) == ("succeeded", True)
    elif "async" in path:
        assert answer["task_status"] == "SUCCESS"
    else:
        assert answer["choices"][0]["finish_reason"] == "stop"
    assert working.simulator is not None
    assert working.simulator.bill.charges == 1


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    "other", [{"temperature": 0.5}, {"messages": [{"role": "user", "content": "x"}]}, {"model": "glm-4-flash"}]
)
async def test_another_body_is_refused(sqlite_gate: Gate, path: str, other: dict[str, Any]) -> None:
    caller = await sqlite_gate.caller()
    made = await caller.submit(chat(request_id=ID))
    response = await caller.send("POST", path, body={**chat(request_id=ID), **other})
    if path == "/tasks":
        refused = refusal(response, 409)
        assert (refused["type"], refused["task_id"]) == ("conflict", made["id"])
    else:
        assert refusal(response, 400)["code"] == "1231", "a 409 would be sent again by the SDKs"


async def test_a_list_with_a_conflict_is_refused_whole(caller: Caller) -> None:
    await caller.submit(one(request_id=ID))
    listed = [one(), one("other", request_id=ID)]
    refusal(await caller.send("POST", "/tasks", body=listed), 409)
    assert len((await caller.get("/tasks"))["data"]) == 1


async def test_it_is_the_projects_own(gate: Gate) -> None:
    one_project, another = await gate.caller(), await gate.caller(project="another")
    mine = await one_project.submit(one(request_id=ID))
    theirs = await another.submit(one("another body", request_id=ID))
    assert theirs["id"] != mine["id"]
    same_project = await gate.caller()
    assert (await same_project.submit(one(request_id=ID), status=200))["id"] == mine["id"], "another key of it"


async def test_twenty_at_once_make_one_task(caller: Caller) -> None:
    answers = await asyncio.gather(*(caller.send("POST", "/tasks", body=one(request_id=ID)) for _ in range(20)))
    assert sorted(answer.status_code for answer in answers) == [200] * 19 + [202]
    assert len({answer.json()["id"] for answer in answers}) == 1
    assert len((await caller.get("/tasks"))["data"]) == 1


async def test_twenty_synchronous_calls_at_once_buy_one_answer(working: Gate) -> None:
    caller = await working.caller()
    path = V4 + "/chat/completions"
    answers = await asyncio.gather(*(caller.post(path, chat(request_id=ID)) for _ in range(20)))
    assert all(answer == answers[0] for answer in answers)
    assert answers[0]["request_id"] == ID
    assert working.simulator is not None
    assert working.simulator.bill.charges == 1


async def test_of_twenty_different_bodies_at_once_one_wins(caller: Caller) -> None:
    bodies = [one(f"body {number}", request_id=ID) for number in range(20)]
    answers = await asyncio.gather(*(caller.send("POST", "/tasks", body=body) for body in bodies))
    assert sorted(answer.status_code for answer in answers) == [202] + [409] * 19
    (winner,) = [answer.json()["id"] for answer in answers if answer.status_code == 202]
    assert {answer.json()["error"]["task_id"] for answer in answers if answer.status_code == 409} == {winner}


async def test_a_cancelled_task_stays_what_its_request_id_made(caller: Caller) -> None:
    made = await caller.submit(one(request_id=ID))
    await caller.post(f"/tasks/{made['id']}/cancel")
    again = await caller.submit(one(request_id=ID), status=200)
    assert (again["id"], again["status"]) == (made["id"], "FAIL")
    v4 = await caller.post(V4 + "/async/chat/completions", chat(request_id=ID))
    assert v4["task_status"] == "FAIL"
