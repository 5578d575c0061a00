"""The v4 routes: synchronous chat, asynchronous chat and its result."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import fastapi

from gateway import chat_body
from gateway.bodies import read_json, require_object
from gateway.chat_body import ChatBody
from gateway.dialects.route import KeyDep, Wait, json_response, require_id, route_class
from gateway.dialects.zhipu_v4 import render
from gateway.dialects.zhipu_v4.errors import FINAL, answer, error_response, failed_task
from gateway.querying import cancel_task, read_task
from gateway.services import Services, ServicesDep
from tollgate.domain.errors import InvalidRequestError
from tollgate.domain.states import TaskState
from tollgate.domain.tasks import TaskRequest

PREFIX = "/api/paas/v4"
OWN = frozenset({"request_id", "stream", "stream_options"})
"""Fields that say how the answer is wanted; the upstream gets a request_id of ours."""
DOC = {"requestBody": {"required": True, "content": {"application/json": {"schema": ChatBody.model_json_schema()}}}}

router = fastapi.APIRouter(prefix=PREFIX, tags=["ZhipuAI v4"], route_class=route_class(answer))


@router.post("/async/chat/completions", openapi_extra=DOC)
async def submit(request: fastapi.Request, services: ServicesDep, key: KeyDep) -> fastapi.Response:
    """Submit; answers the task's id at once, after it is committed."""
    asked = await _parse(request, services)
    (accepted,) = await services.intake.submit([asked], key=key)
    body = render.processing(str(accepted.id), request_id=asked.request_id, model=asked.model)
    if accepted.state.ended:
        body["task_status"] = accepted.state.status
    return json_response(body)


@router.get("/async-result/{task_id}")
async def result(task_id: str, services: ServicesDep, key: KeyDep, wait: Wait = 0) -> fastapi.Response:
    """PROCESSING, SUCCESS with choices and usage, or FAIL with an error. FAIL is a state, not an HTTP error."""
    one = await read_task(services, key, require_id(task_id), wait_s=wait)
    return json_response(render.async_result(one))


@router.post("/chat/completions", openapi_extra=DOC)
async def complete(request: fastapi.Request, services: ServicesDep, key: KeyDep) -> fastapi.Response:
    """A synchronous call is a task like any other; this waits for its end."""
    asked = await _parse(request, services, sync=True)
    (accepted,) = await services.intake.submit([asked], key=key)
    one = await read_task(services, key, accepted.id, wait_s=services.settings.sync_timeout_s)
    headers = {"x-task-id": str(one.id)}
    if one.state is TaskState.SUCCEEDED:
        return json_response(render.completion(one), headers=headers)
    if one.state.ended:
        return failed_task(one.error_code or "1200", one.error_message or "the task failed", task_id=str(one.id))
    await cancel_task(services, key, one.id)
    late = f"no answer within {services.settings.sync_timeout_s:g} s; task {one.id} was cancelled"
    return error_response(503, "1234", late, headers={**headers, **FINAL})


async def _parse(request: fastapi.Request, services: Services, *, sync: bool = False) -> TaskRequest:
    body = require_object(await read_json(request, max_bytes=services.settings.max_body_bytes))
    checked: ChatBody = chat_body.check(body)
    if checked.stream:
        raise InvalidRequestError("stream: streaming is not served yet; leave it out", field="stream", code="1212")
    limits: dict[str, Any] = {}
    if sync:
        timeout = timedelta(seconds=services.settings.sync_timeout_s)
        limits = {"retry_for_s": services.settings.sync_retry_s, "expires_at": datetime.now(UTC) + timeout}
    return TaskRequest(
        model=checked.model, body=chat_body.without_nulls(body, less=OWN), request_id=checked.request_id, **limits
    )
