"""The v4 routes: synchronous chat, asynchronous chat and its result."""

from __future__ import annotations

import fastapi
from starlette.requests import ClientDisconnect

from gateway import chat_body
from gateway.bodies import read_json, require_object
from gateway.chat_body import ChatBody
from gateway.dialects.route import KeyDep, Wait, json_response, require_id, route_class
from gateway.dialects.zhipu_v4 import render
from gateway.dialects.zhipu_v4.errors import FINAL, RESPONSES, answer, error_response, failed_task
from gateway.leaving import unless_left
from gateway.openapi import body_of
from gateway.querying import cancel_task, give_up_if_paused, read_task
from gateway.services import Services, ServicesDep
from tollgate.domain.errors import InvalidRequestError
from tollgate.domain.states import TaskState
from tollgate.domain.tasks import Accepted, Key, TaskRequest
from tollgate.store.tasks import Task

PREFIX = "/api/paas/v4"
OWN = frozenset({"request_id", "stream", "stream_options"})
"""Fields that say how the answer is wanted; the upstream gets a request_id of ours."""

router = fastapi.APIRouter(prefix=PREFIX, tags=["ZhipuAI v4"], route_class=route_class(answer), responses=RESPONSES)


@router.post("/async/chat/completions", openapi_extra=body_of(ChatBody))
async def submit(request: fastapi.Request, services: ServicesDep, key: KeyDep) -> fastapi.Response:
    """Submit; answers the task's id at once, after it is committed."""
    asked = await _parse(request, services)
    accepted = await services.intake.submit_one(asked, key=key)
    body = render.processing(str(accepted.id), request_id=asked.request_id, model=asked.model)
    return json_response({**body, "task_status": accepted.state.status})


@router.get("/async-result/{task_id}")
async def result(task_id: str, services: ServicesDep, key: KeyDep, wait: Wait = 0) -> fastapi.Response:
    """PROCESSING, SUCCESS with choices and usage, or FAIL with an error. FAIL is a state, not an HTTP error."""
    one = await read_task(services, key, require_id(task_id), wait_s=wait)
    return json_response(render.async_result(one))


@router.post("/chat/completions", openapi_extra=body_of(ChatBody))
async def complete(request: fastapi.Request, services: ServicesDep, key: KeyDep) -> fastapi.Response:
    """A synchronous call is a task like any other; this waits for its end.

    A client that leaves: the task runs on and its result can be fetched. With `x-on-disconnect: cancel` it is
    cancelled."""
    asked = await _parse(request, services, sync=True)
    accepted = await services.intake.submit_one(asked, key=key)
    try:
        one = await unless_left(request, _wait(services, key, accepted))
    except ClientDisconnect:
        if request.headers.get("x-on-disconnect") == "cancel" and not accepted.duplicate:
            await cancel_task(services, key, accepted.id)
        raise
    if not one.state.ended:
        return await _late(services, key, accepted)
    return _answered(one)


async def _wait(services: Services, key: Key, accepted: Accepted) -> Task:
    """The task at its end, or when time is over. One that a paused upstream keeps waiting is given up sooner."""
    patience_s = min(services.settings.sync_retry_s, services.settings.sync_timeout_s)
    one = await read_task(services, key, accepted.id, wait_s=patience_s)
    if not accepted.duplicate:
        one = await give_up_if_paused(services, key, one)
    left_s = services.settings.sync_timeout_s - patience_s
    return one if one.state.ended else await read_task(services, key, accepted.id, wait_s=left_s)


def _answered(one: Task) -> fastapi.Response:
    if one.state is TaskState.SUCCEEDED:
        return json_response(render.completion(one), headers={"x-task-id": str(one.id)})
    return failed_task(one.error_code, one.error_message, task_id=str(one.id))


async def _late(services: Services, key: Key, accepted: Accepted) -> fastapi.Response:
    """Time is over: the task this call made is cancelled. One that was there before belongs to others too."""
    late = f"no answer within {services.settings.sync_timeout_s:g} s; task {accepted.id} "
    if services.waiters.released:
        late = f"the gateway is stopping; task {accepted.id} goes on: GET {PREFIX}/async-result/{accepted.id}"
    elif accepted.duplicate:
        late += "goes on"
    elif (await cancel_task(services, key, accepted.id)) is TaskState.SUCCEEDED:
        return _answered(await read_task(services, key, accepted.id))
    else:
        late += "was cancelled"
    return error_response(503, "1234", late, headers={"x-task-id": str(accepted.id), **FINAL})


async def _parse(request: fastapi.Request, services: Services, *, sync: bool = False) -> TaskRequest:
    body = require_object(await read_json(request, max_bytes=services.settings.max_body_bytes))
    checked = chat_body.check(body)
    if checked.stream:
        raise InvalidRequestError("stream: streaming is not served yet; leave it out", field="stream", code="1212")
    return TaskRequest(
        model=checked.model,
        body=chat_body.without_nulls(body, less=OWN),
        request_id=checked.request_id,
        retry_for_s=services.settings.sync_retry_s if sync else None,
        timeout_s=services.settings.sync_timeout_s if sync else None,
    )
