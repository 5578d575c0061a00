"""DELETE of tasks and batches, PATCH of projects, and how each dialect tells of an answer that was erased."""

from __future__ import annotations

from typing import Any

import pytest

from tests.gateway.gate import V4, Caller, Gate, chat, refusal
from tests.store import seeds
from tests.store.test_batch_erasing import a_batch, a_done_batch, a_file
from tollgate.domain.ids import new_id
from tollgate.domain.states import Role
from worker.erasing import Eraser

PAAS_V3 = "/api/paas/v3/model-api"


async def deleted(caller: Caller, path: str, *, status: int = 200) -> Any:
    response = await caller.send("DELETE", path)
    assert response.status_code == status, response.text
    return response.json()


async def erased_id(gate: Gate, caller: Caller, **fields: Any) -> str:
    """Of a task that succeeded, and was deleted since."""
    task_id = await caller.id_of(**fields)
    await gate.succeed(task_id)
    await deleted(caller, f"/tasks/{task_id}")
    return task_id


async def test_a_deleted_task_keeps_what_it_cost(gate: Gate, caller: Caller) -> None:
    task_id = await caller.id_of(metadata={"who": "alice"}, label="l")
    await gate.succeed(task_id)
    before, usage = await caller.get(f"/tasks/{task_id}"), await caller.get("/usage")
    shown = await deleted(caller, f"/tasks/{task_id}")
    assert (before["erased"], before["prompt_erased"]) == (False, False)
    gone = {"erased": True, "prompt_erased": True, "result": None, "metadata": None}
    assert shown == {**before, **gone}
    assert await caller.get(f"/tasks/{task_id}") == shown
    assert await caller.get("/usage") == usage
    assert await deleted(caller, f"/tasks/{task_id}") == shown, "again"


async def test_of_a_failed_task_the_code_stays_and_the_message_goes(gate: Gate, caller: Caller) -> None:
    task_id = await caller.id_of()
    await gate.fail(task_id, code="1301", message="you wrote this")
    shown = await deleted(caller, f"/tasks/{task_id}")
    assert (shown["state"], shown["error"]) == ("failed", {"code": "1301", "message": None})
    assert shown["attempts"][0]["error"] == {"code": "1301", "message": None}
    assert (await caller.get("/tasks", include="result"))["data"][0]["error"]["message"] is None
    failed = await caller.get(f"{V4}/async-result/{task_id}")
    assert failed["error"] == {"code": "1301", "message": "the task failed"}


async def test_one_that_waits_or_runs_is_to_be_cancelled_first(gate: Gate, caller: Caller) -> None:
    task_id = await caller.id_of()
    for state in ("queued", "running"):
        refused = refusal(await caller.send("DELETE", f"/tasks/{task_id}"), 409)
        assert refused["type"] == "still_open"
        assert f"is {state}: cancel it first" in refused["message"]
        if state == "queued":
            await gate.claim(task_id)
    assert (await caller.get(f"/tasks/{task_id}"))["prompt_erased"] is False


async def test_another_projects_task_cannot_be_deleted(gate: Gate, caller: Caller) -> None:
    task_id = await caller.id_of()
    await gate.succeed(task_id)
    stranger = await gate.caller(project="other", role=Role.ADMIN)
    for path in (f"/tasks/{task_id}", f"/tasks/{new_id()}", "/tasks/nothing"):
        refusal(await stranger.send("DELETE", path), 404)
    assert (await caller.get(f"/tasks/{task_id}"))["erased"] is False


async def test_each_dialect_says_that_the_answer_was_erased(gate: Gate, caller: Caller) -> None:
    task_id = await erased_id(gate, caller)
    v4 = refusal(await caller.send("GET", f"{V4}/async-result/{task_id}"), 410)
    assert v4["code"] == "1200"
    assert "was erased" in v4["message"]
    v3 = await caller.get(f"{PAAS_V3}/-/async-invoke/{task_id}")
    assert (v3["code"], v3["success"]) == (1200, False)
    assert "was erased" in v3["msg"]
    events = refusal(await caller.send("GET", f"/tasks/{task_id}/events"), 410)
    assert events["type"] == "erased"


@pytest.mark.parametrize("stream", [False, True])
async def test_a_repeat_of_an_erased_call_is_told_so_and_buys_nothing(gate: Gate, caller: Caller, stream: bool) -> None:
    asked = chat(request_id="request-1", stream=stream)
    submitted = await caller.post(V4 + "/async/chat/completions", chat(request_id="request-1"))
    await gate.succeed(submitted["id"])
    await deleted(caller, f"/tasks/{submitted['id']}")
    refusal(await caller.send("POST", V4 + "/chat/completions", body=asked), 410)
    assert len((await caller.get("/tasks"))["data"]) == 1


async def test_openais_wire_tells_it_as_an_error_of_the_request(gate: Gate, caller: Caller) -> None:
    task_id = await erased_id(gate, caller)
    told = refusal(await caller.send("GET", f"/v1/responses/{task_id}"), 410)
    assert (told["type"], told["code"]) == ("invalid_request_error", "erased")


async def test_a_deleted_batch_is_gone_with_its_file_and_its_tasks_stay(gate: Gate, caller: Caller) -> None:
    key = await seeds.a_key(gate.database)
    file_id = await a_file(gate.database, key)
    batch_id = await a_done_batch(gate.database, key, good=1, failed=1, input_file_id=file_id)
    listed = (await caller.get("/tasks", batch_id=str(batch_id)))["data"]
    usage = await caller.get("/usage")
    assert await deleted(caller, f"/batches/{batch_id}") == {"id": str(batch_id), "object": "batch", "deleted": True}
    for path in (f"/batches/{batch_id}", f"/v1/batches/{batch_id}", f"{V4}/batches/{batch_id}", f"/files/{file_id}"):
        refusal(await caller.send("GET", path), 404)
    refusal(await caller.send("DELETE", f"/batches/{batch_id}"), 404)
    assert (await caller.get("/batches"))["data"] == []
    await Eraser(gate.database).erase_deleted_batches()
    erased = (await caller.get("/tasks", batch_id=str(batch_id)))["data"]
    assert [(one["id"], one["erased"], one["prompt_erased"]) for one in erased] == [
        (one["id"], True, True) for one in listed
    ]
    assert await caller.get("/usage") == usage


async def test_an_open_batch_is_to_be_cancelled_first(gate: Gate, caller: Caller) -> None:
    batch_id = await a_batch(gate.database, await gate.stored_key())
    refused = refusal(await caller.send("DELETE", f"/batches/{batch_id}"), 409)
    assert (refused["type"], "cancel it first" in refused["message"]) == ("still_open", True)
    stranger = await gate.caller(project="other")
    refusal(await stranger.send("DELETE", f"/batches/{batch_id}"), 404)


class TestProjects:
    async def test_an_admin_says_how_long_texts_are_kept(self, gate: Gate) -> None:
        admin = await gate.caller(project="a/b", role=Role.ADMIN)

        async def change(body: Any) -> tuple[str | None, str | None]:
            response = await admin.send("PATCH", "/projects/a%2Fb", body=body)
            assert response.status_code == 200, response.text
            (listed,) = (await admin.get("/projects"))["data"]
            assert response.json() == listed
            return listed["keep_prompts"], listed["keep_results"]

        assert await change({}) == (None, None)
        assert await change({"keep_prompts": "30d", "keep_results": "36h"}) == ("30d", "36h")
        assert await change({"keep_results": None}) == ("30d", None)

    @pytest.mark.parametrize("field", ["keep_prompts", "keep_results"])
    async def test_what_is_no_time_is_told_with_what_is(self, gate: Gate, field: str) -> None:
        admin = await gate.caller(role=Role.ADMIN)
        for wrong in ("30", "59m", "3651d"):
            told = refusal(await admin.send("PATCH", "/projects/acme", body={field: wrong}), 400)
            assert (told["field"], told["allowed"]) == (field, "hours or days, from '1h' to '3650d'; null: for ever")
        refusal(await admin.send("PATCH", "/projects/acme", body={field: 30}), 400)

    async def test_it_is_for_admins_and_of_projects_that_there_are(self, gate: Gate, caller: Caller) -> None:
        refusal(await caller.send("PATCH", "/projects/acme", body={}), 403)
        admin = await gate.caller(role=Role.ADMIN)
        for name in ("nobody", "%00"):
            refusal(await admin.send("PATCH", f"/projects/{name}", body={}), 404)
