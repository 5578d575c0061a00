"""/v1/responses with `background`: a task by another name. The id is the task's, behind `resp_`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any
from uuid import UUID

import fastapi
import orjson

from gateway import openai_answers
from gateway.bodies import read_json, require_object
from gateway.dialects.openai.answering import answer_of
from gateway.dialects.openai.errors import RESPONSES, answer
from gateway.dialects.openai.responses_body import ResponsesBody, chat_of
from gateway.dialects.route import MAX_WAIT_S, OF_TASK, caller, json_response, require_id, route_class, wait_asked
from gateway.ends import end_of
from gateway.openai_chat_body import task_of
from gateway.openapi import body_of
from gateway.querying import cancel_task, read_task
from gateway.submitting import submit_one
from gateway.synchronous import bounded
from tollgate.domain.errors import NotFoundError
from tollgate.domain.states import TaskState
from tollgate.store.tasks import Task

STATUSES = {
    TaskState.QUEUED: "queued",
    TaskState.RUNNING: "in_progress",
    TaskState.SUCCEEDED: "completed",
    TaskState.CANCELLED: "cancelled",
}
"""Any other is `failed`."""
INCOMPLETE = {"length": "max_output_tokens", "content_filter": "content_filter"}
CODES = {400: "invalid_prompt", 429: "rate_limit_exceeded"}
"""Of an error, by the HTTP status that a call would have had; any other is a server_error."""
ONE: dict[str, Any] = {"parameters": [{**OF_TASK["parameters"][0], "name": "response_id"}, *OF_TASK["parameters"][1:]]}

router = fastapi.APIRouter(prefix="/v1", tags=["OpenAI"], route_class=route_class(answer), responses=RESPONSES)


@router.post("/responses", openapi_extra=body_of(ResponsesBody))
async def create(request: fastapi.Request) -> fastapi.Response:
    """A response. With `background` its id at once, to be fetched with GET; else when it is complete."""
    services, key = await caller(request)
    body = require_object(await read_json(request, max_bytes=services.settings.max_body_bytes))
    asked, chat = chat_of(body)
    kind = services.upstream_kind(asked.model)
    task, _ = task_of(chat, key_of_header=request.headers.get("idempotency-key"), kind=kind)
    task = replace(task, metadata=asked.metadata)
    if not asked.background:
        accepted = await submit_one(request, services, key, bounded(task, services.settings))
        return await answer_of(request, services, key, accepted, render=response)
    accepted = await submit_one(request, services, key, task)
    return json_response(response(await read_task(services, key, accepted.id)))


@router.get("/responses/{response_id}", openapi_extra=ONE)
async def retrieve(request: fastapi.Request) -> fastapi.Response:
    """A response as it stands. With `wait`, or `Prefer: wait=SECONDS`, when it is complete, or the time is over."""
    services, key = await caller(request)
    task_id = _id_of(request.path_params["response_id"])
    return json_response(response(await read_task(services, key, task_id, wait_s=wait_asked(request))))


@router.post("/responses/{response_id}/cancel", openapi_extra={"parameters": ONE["parameters"][:1]})
async def cancel(request: fastapi.Request) -> fastapi.Response:
    """Cancel it. One that runs is cancelled when its worker has stopped it; one that is complete stays so."""
    services, key = await caller(request)
    task_id = _id_of(request.path_params["response_id"])
    state = await cancel_task(services, key, task_id)
    # The SDK takes what comes for the end of it: the worker stops a call within moments.
    wait_s = min(5.0, MAX_WAIT_S) if state is TaskState.RUNNING else 0
    return json_response(response(await read_task(services, key, task_id, wait_s=wait_s)))


def _id_of(text: str) -> UUID:
    """Raises NotFoundError. The task's own id will do, too."""
    try:
        return require_id(text.removeprefix("resp_"))
    except NotFoundError:
        raise NotFoundError("response", text) from None


def response(one: Task) -> dict[str, Any]:
    """A task as OpenAI's Response."""
    shown: dict[str, Any] = {
        "id": f"resp_{one.id}",
        "object": "response",
        "created_at": int(one.created_at.timestamp()),
        "status": STATUSES.get(one.state, "failed"),
        "error": None,
        "incomplete_details": None,
        "instructions": None,
        "model": one.model,
        "output": [],
        "parallel_tool_calls": True,
        "tool_choice": "auto",
        "tools": [],
        "metadata": orjson.loads(one.metadata) if one.metadata else {},
        "usage": None,
    }
    if one.state is TaskState.SUCCEEDED:
        return shown | _completed(one)
    if one.state in (TaskState.FAILED, TaskState.EXPIRED):
        status, _ = end_of(one.error_code)
        message = f"{one.error_message or 'the task failed'} (task {one.id})"
        shown["error"] = {"code": CODES.get(status, "server_error"), "message": message}
    return shown


def _completed(one: Task) -> dict[str, Any]:
    whole = openai_answers.completion(one)
    choice = whole["choices"][0]
    reason = INCOMPLETE.get(choice["finish_reason"])
    told: dict[str, Any] = {"output": _output(one.id.hex, choice["message"]), "usage": _usage(whole["usage"])}
    if reason:
        told |= {"status": "incomplete", "incomplete_details": {"reason": reason}}
    return told


def _output(name: str, message: Mapping[str, Any]) -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = []
    if reasoning := message.get("reasoning_content"):
        content = [{"type": "reasoning_text", "text": reasoning}]
        items.append({"type": "reasoning", "id": f"rs_{name}", "summary": [], "content": content})
    if message.get("content"):
        part = {"type": "output_text", "text": message["content"], "annotations": []}
        items.append(
            {"type": "message", "id": f"msg_{name}", "status": "completed", "role": "assistant", "content": [part]}
        )
    for index, call in enumerate(message.get("tool_calls") or ()):
        function = call.get("function") or {}
        items.append(
            {
                "type": "function_call",
                "id": f"fc_{name}_{index}",
                "call_id": call.get("id"),
                "name": function.get("name"),
                "arguments": function.get("arguments"),
                "status": "completed",
            }
        )
    return items


def _usage(told: Mapping[str, Any]) -> dict[str, Any]:
    cached = (told.get("prompt_tokens_details") or {}).get("cached_tokens") or 0
    reasoning = (told.get("completion_tokens_details") or {}).get("reasoning_tokens") or 0
    return {
        "input_tokens": told["prompt_tokens"],
        "input_tokens_details": {"cached_tokens": cached},
        "output_tokens": told["completion_tokens"],
        "output_tokens_details": {"reasoning_tokens": reasoning},
        "total_tokens": told["total_tokens"],
    }
