"""The v3 routes: invoke, async-invoke with its result, sse-invoke."""

from __future__ import annotations

from typing import Any

import fastapi

from gateway.bodies import read_json, require_object
from gateway.dialects.route import caller, json_response, route_class, task_asked, upstream_header
from gateway.dialects.zhipu_v3 import prompt_body, render
from gateway.dialects.zhipu_v3.errors import RESPONSES, answer, problem, streamed
from gateway.dialects.zhipu_v3.events import V3Frames
from gateway.dialects.zhipu_v3.prompt_body import PromptBody
from gateway.ends import end_of
from gateway.openapi import body_of
from gateway.querying import read_task
from gateway.services import Services
from gateway.streaming import stream
from gateway.submitting import submit_one
from gateway.synchronous import LateError, answered, bounded
from tollgate.domain.states import TaskState
from tollgate.domain.tasks import TaskRequest

PREFIX = "/api/paas/v3/model-api"
MODEL = {"name": "model", "in": "path", "required": True, "schema": {"type": "string", "title": "Model"}}
TASK = {"name": "task_id", "in": "path", "required": True, "schema": {"type": "string", "title": "Task Id"}}
BODY: dict[str, Any] = {**body_of(PromptBody), "parameters": [MODEL]}
TAGS: list[Any] = ["ZhipuAI v3"]

router = fastapi.APIRouter(prefix=PREFIX, tags=TAGS, route_class=route_class(answer), responses=RESPONSES)
streams = fastapi.APIRouter(prefix=PREFIX, tags=TAGS, route_class=route_class(streamed), responses=RESPONSES)
ROUTERS = (router, streams)


@router.post("/{model}/invoke", openapi_extra=BODY)
async def invoke(request: fastapi.Request) -> fastapi.Response:
    """A synchronous call."""
    services, key = await caller(request)
    checked, asked = await _parse(request, services)
    accepted = await submit_one(request, services, key, bounded(asked, services.settings))
    try:
        one = await answered(request, services, key, accepted)
    except LateError as error:
        return problem("1234", str(error))
    if one.state is not TaskState.SUCCEEDED:
        message = f"{one.error_message or 'the task failed'} (task {one.id})"
        return problem(end_of(one.error_code)[1], message)
    shown = render.result(one, as_text=checked.return_type == "text")
    return json_response(shown, headers=upstream_header(one.answered_by))


@router.post("/{model}/async-invoke", openapi_extra=BODY)
async def async_invoke(request: fastapi.Request) -> fastapi.Response:
    """Submit; answers the task's id at once, after it is committed."""
    services, key = await caller(request)
    _, asked = await _parse(request, services)
    accepted = await submit_one(request, services, key, asked)
    return json_response(render.accepted(str(accepted.id), request_id=asked.request_id))


@router.get("/-/async-invoke/{task_id}", openapi_extra={"parameters": [TASK]})
async def result(request: fastapi.Request) -> fastapi.Response:
    """PROCESSING, SUCCESS with choices and usage, or FAIL."""
    services, key = await caller(request)
    task_id, wait_s = task_asked(request)
    return json_response(render.result(await read_task(services, key, task_id, wait_s=wait_s)))


@streams.post("/{model}/sse-invoke", openapi_extra=BODY)
async def sse_invoke(request: fastapi.Request) -> fastapi.Response:
    """The answer as it is written: events `add`, then `finish`, `interrupted` or `error`."""
    services, key = await caller(request)
    checked, asked = await _parse(request, services, stream=True)
    accepted = await submit_one(request, services, key, bounded(asked, services.settings))
    frames = V3Frames(task_id=str(accepted.id), incremental=checked.incremental is not False)
    return await stream(request, services, key, accepted, frames)


async def _parse(
    request: fastapi.Request, services: Services, *, stream: bool = False
) -> tuple[PromptBody, TaskRequest]:
    given = require_object(await read_json(request, max_bytes=services.settings.max_body_bytes))
    checked = prompt_body.check(given)
    model = request.path_params["model"]
    return checked, prompt_body.task_of(given, checked, model=model, catalog=services.catalog, stream=stream)
