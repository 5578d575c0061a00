"""The v4 routes: synchronous chat, asynchronous chat and its result."""

from __future__ import annotations

import time

import fastapi

from gateway import answers, chat_body, embeddings_body
from gateway.bodies import read_json, require_object
from gateway.chat_body import ChatBody
from gateway.dialects.route import OF_TASK, caller, json_response, route_class, task_asked, upstream_header
from gateway.dialects.zhipu_v4 import render
from gateway.dialects.zhipu_v4.errors import FINAL, RESPONSES, answer, error_response, failed_task
from gateway.dialects.zhipu_v4.stream import ZhipuFrames
from gateway.embeddings_body import EmbeddingsBody
from gateway.openapi import body_of
from gateway.querying import read_task
from gateway.services import Services
from gateway.streaming import stream
from gateway.submitting import submit_one
from gateway.synchronous import LateError, answered, bounded
from tollgate.domain.errors import InvalidRequestError
from tollgate.domain.states import TaskState
from tollgate.domain.tasks import Accepted, Key, TaskRequest

PREFIX = "/api/paas/v4"

router = fastapi.APIRouter(prefix=PREFIX, tags=["ZhipuAI v4"], route_class=route_class(answer), responses=RESPONSES)


@router.post("/async/chat/completions", openapi_extra=body_of(ChatBody))
async def submit(request: fastapi.Request) -> fastapi.Response:
    """Submit; answers the task's id at once, after it is committed."""
    services, key = await caller(request)
    asked = await _parse(request, services)
    accepted = await submit_one(request, services, key, asked)
    body = render.processing(str(accepted.id), request_id=asked.request_id, model=asked.model)
    return json_response({**body, "task_status": accepted.state.status})


@router.get("/async-result/{task_id}", openapi_extra=OF_TASK)
async def result(request: fastapi.Request) -> fastapi.Response:
    """PROCESSING, SUCCESS with choices and usage, or FAIL with an error. FAIL is a state, not an HTTP error."""
    services, key = await caller(request)
    task_id, wait_s = task_asked(request)
    one = await read_task(services, key, task_id, wait_s=wait_s)
    return json_response(render.async_result(one))


@router.post("/chat/completions", openapi_extra=body_of(ChatBody))
async def complete(request: fastapi.Request) -> fastapi.Response:
    """A synchronous call is a task like any other; this waits for its end. With `stream` it is told as it is written.

    A client that leaves: the task runs on and its result can be fetched. With `x-on-disconnect: cancel` it is
    cancelled."""
    services, key = await caller(request)
    asked = await _parse(request, services, sync=True)
    accepted = await submit_one(request, services, key, asked)
    if asked.stream:
        frames = ZhipuFrames(task_id=str(accepted.id), model=asked.model, created=int(time.time()))
        return await stream(request, services, key, accepted, frames)
    return await _answer(request, services, key, accepted)


@router.post("/embeddings", openapi_extra=body_of(EmbeddingsBody))
async def embed(request: fastapi.Request) -> fastapi.Response:
    """Vectors of one text or a list of texts."""
    services, key = await caller(request)
    body = require_object(await read_json(request, max_bytes=services.settings.max_body_bytes))
    asked = bounded(embeddings_body.task_of(body), services.settings)
    return await _answer(request, services, key, await submit_one(request, services, key, asked))


async def _answer(request: fastapi.Request, services: Services, key: Key, accepted: Accepted) -> fastapi.Response:
    try:
        one = await answered(request, services, key, accepted)
    except LateError as error:
        return error_response(503, "1234", str(error), headers=FINAL)
    if one.state is not TaskState.SUCCEEDED:
        return failed_task(one.error_code, one.error_message, task_id=str(one.id))
    shown = answers.embeddings(one) if one.endpoint == "embeddings" else answers.completion(one)
    return json_response(shown, headers=upstream_header(one.answered_by))


async def _parse(request: fastapi.Request, services: Services, *, sync: bool = False) -> TaskRequest:
    body = require_object(await read_json(request, max_bytes=services.settings.max_body_bytes))
    asked = chat_body.task_of(body)
    if asked.stream and not sync:
        raise InvalidRequestError(
            "stream: an asynchronous call has no stream; leave it out", field="stream", code="1212"
        )
    return bounded(asked, services.settings) if sync else asked
