"""POST /v1/chat/completions: a task like any other, waited for or followed."""

from __future__ import annotations

import time
from typing import Any

import fastapi

from gateway import openai_answers
from gateway.bodies import read_json, require_object
from gateway.dialects.openai.answering import answer_of
from gateway.dialects.openai.errors import RESPONSES, answer, failed_task
from gateway.dialects.route import caller, route_class
from gateway.event_stream import frame
from gateway.following import Wrote
from gateway.openai_chat_body import OpenAIChatBody, task_of
from gateway.openapi import body_of
from gateway.services import Services
from gateway.streaming import stream
from gateway.submitting import submit_one
from gateway.synchronous import bounded
from tollgate.domain.tasks import TaskRequest
from tollgate.store.tasks import Task

DONE = b"data: [DONE]\n\n"

router = fastapi.APIRouter(prefix="/v1", tags=["OpenAI"], route_class=route_class(answer), responses=RESPONSES)


@router.post("/chat/completions", openapi_extra=body_of(OpenAIChatBody))
async def complete(request: fastapi.Request) -> fastapi.Response:
    """A chat completion, in one piece or with `stream` as it is written.

    A client that leaves: the task runs on, and GET /tasks/{id} has its result (`x-task-id` names it). With
    `x-on-disconnect: cancel` it is cancelled."""
    services, key = await caller(request)
    asked, with_usage = await _parse(request, services)
    accepted = await submit_one(request, services, key, asked)
    if asked.stream:
        frames = OpenAIFrames(task_id=str(accepted.id), model=asked.model, with_usage=with_usage)
        return await stream(request, services, key, accepted, frames)
    return await answer_of(request, services, key, accepted, render=openai_answers.completion)


async def _parse(request: fastapi.Request, services: Services) -> tuple[TaskRequest, bool]:
    body = require_object(await read_json(request, max_bytes=services.settings.max_body_bytes))
    kind = services.upstream_kind(body.get("model"))
    asked, with_usage = task_of(body, key_of_header=request.headers.get("idempotency-key"), kind=kind)
    return bounded(asked, services.settings), with_usage


class OpenAIFrames:
    """A stream of one task: chunks, the last with finish_reason; with `with_usage` one more without choices; `[DONE]`.

    `with_usage`: `stream_options.include_usage`."""

    def __init__(self, *, task_id: str, model: str, with_usage: bool) -> None:
        self._head = {"id": task_id, "object": "chat.completion.chunk", "created": int(time.time()), "model": model}
        self._with_usage = with_usage
        self._begun = False

    def wrote(self, event: Wrote) -> bytes:
        return frame(self._chunk(event.delta))

    def succeeded(self, task: Task) -> bytes:
        whole = openai_answers.completion(task)
        last = frame(self._chunk({}, finish_reason=whole["choices"][0]["finish_reason"]))
        usage = frame({**self._head, "choices": [], "usage": whole["usage"]}) if self._with_usage else b""
        return last + usage + DONE

    def failed(self, code: str | None, message: str) -> bytes:
        return frame(openai_answers.failure(code, message)[1])

    def refused(self, task: Task) -> fastapi.Response:
        return failed_task(task.error_code, task.error_message, task_id=str(task.id))

    def _chunk(self, delta: dict[str, Any], *, finish_reason: str | None = None) -> dict[str, Any]:
        """The role stands in the first."""
        told = delta if self._begun else {"role": "assistant", **delta}
        self._begun = True
        choice = {"index": 0, "delta": told, "logprobs": None, "finish_reason": finish_reason}
        return {**self._head, "choices": [choice]} | ({"usage": None} if self._with_usage else {})
