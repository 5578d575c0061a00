"""/tasks: submit, query, list, cancel, delete."""

from __future__ import annotations

from typing import Annotated, Any

import fastapi

from gateway.bodies import read_json
from gateway.dialects.native import parse, render
from gateway.dialects.native.errors import RESPONSES, answer
from gateway.dialects.native.queries import TasksQuery
from gateway.dialects.route import OF_TASK, KeyDep, caller, json_response, require_id, route_class, task_asked
from gateway.openapi import body_of
from gateway.querying import cancel_task, read_task, read_tasks
from gateway.services import Services, ServicesDep
from gateway.submitting import submit_all, submit_one
from gateway.task_body import TaskBody
from tollgate.domain.ids import parse_id
from tollgate.domain.states import TaskState
from tollgate.domain.tasks import Key
from tollgate.store import erasing, tasks
from tollgate.store.tasks import Task

router = fastapi.APIRouter(prefix="/tasks", tags=["tasks"], route_class=route_class(answer), responses=RESPONSES)


@router.post("", status_code=202, openapi_extra=body_of(TaskBody, or_list=True))
async def submit(request: fastapi.Request) -> fastapi.Response:
    """Submit one task, or a list, all or nothing. Answers ids, after they are committed."""
    services, key = await caller(request)
    body = await read_json(request, max_bytes=services.settings.max_body_bytes)
    requests, listed = await parse.tasks(body, max_tasks=services.settings.max_tasks_per_submit)
    if listed:
        accepted = await submit_all(request, services, key, requests)
    else:
        accepted = (await submit_one(request, services, key, requests[0]),)
    shown = [render.accepted(one, asked) for one, asked in zip(accepted, requests, strict=True)]
    status = 200 if all(one.duplicate for one in accepted) else 202
    return json_response({"object": "list", "data": shown} if listed else shown[0], status=status)


@router.get("")
async def query(services: ServicesDep, key: KeyDep, asked: Annotated[TasksQuery, fastapi.Query()]) -> fastapi.Response:
    """Many tasks by id, or a page of a filtered list, newest first."""
    if asked.id is not None:
        return await _by_ids(services, key, asked.ids(), wait_s=asked.wait)
    async with services.database.read() as connection:
        found = await tasks.page(
            connection, project_id=key.project_id, where=asked.filter(), limit=asked.limit + 1, after=asked.after
        )
    page, with_result = found[: asked.limit], asked.include == "result"
    data = [_shown(services, one, with_result=with_result, with_attempts=False) for one in page]
    last_id = str(page[-1].id) if page else None
    return json_response({"object": "list", "data": data, "has_more": len(found) > asked.limit, "last_id": last_id})


@router.get("/{task_id}", openapi_extra=OF_TASK)
async def get(request: fastapi.Request) -> fastapi.Response:
    """One task: its state, result, attempts and cost."""
    services, key = await caller(request)
    task_id, wait_s = task_asked(request)
    one = await read_task(services, key, task_id, wait_s=wait_s)
    return json_response(_shown(services, one))


@router.post("/{task_id}/cancel")
async def cancel(task_id: str, services: ServicesDep, key: KeyDep) -> fastapi.Response:
    """A queued task ends at once; a running one when its worker has stopped it. What has ended stays as it is."""
    await cancel_task(services, key, require_id(task_id))
    one = await read_task(services, key, require_id(task_id))
    return json_response(_shown(services, one))


@router.delete("/{task_id}")
async def delete(task_id: str, services: ServicesDep, key: KeyDep) -> fastapi.Response:
    """Erase the texts of a task that has ended: prompt, metadata, answer, error messages. What it cost stays."""
    async with services.database.write() as connection:
        await erasing.erase_task(connection, require_id(task_id), project_id=key.project_id)
    one = await read_task(services, key, require_id(task_id))
    return json_response(_shown(services, one))


async def _by_ids(services: Services, key: Key, names: list[str], *, wait_s: float) -> fastapi.Response:
    ids = {name: parse_id(name) for name in names}
    known = [i for i in ids.values() if i is not None]
    found = await read_tasks(services, key, known, wait_s=wait_s)
    data = [_shown(services, found[i]) for i in known if i in found]
    missing = [name for name, i in ids.items() if i not in found]
    return json_response({"object": "list", "data": data, "missing": missing})


def _shown(services: Services, one: Task, *, with_result: bool = True, with_attempts: bool = True) -> dict[str, Any]:
    waits = one.state is TaskState.QUEUED
    return render.task(
        one,
        currency=services.settings.currency,
        with_result=with_result,
        with_attempts=with_attempts,
        waiting_reason=services.fleet.why_waiting(one.route, one.lane) if waits else None,
    )
