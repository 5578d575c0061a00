"""A task on ZhipuAI's v4 wire. The SDKs validate async results: ids are strings, `finish_reason` a string,
`choices` and all three usage numbers are there; and a finished result reads the same every time."""

from __future__ import annotations

from typing import Any

import orjson

from gateway.dialects.zhipu_v4.errors import end_of
from tollgate.domain.states import AttemptOutcome, TaskState
from tollgate.store.tasks import Task


def processing(task_id: str, *, request_id: str | None, model: str) -> dict[str, Any]:
    return {"id": task_id, "request_id": request_id or task_id, "model": model, "task_status": "PROCESSING"}


def async_result(one: Task) -> dict[str, Any]:
    head = processing(str(one.id), request_id=one.request_id, model=one.model)
    if not one.state.ended:
        return head
    if one.state is TaskState.SUCCEEDED:
        return {**completion(one), "task_status": "SUCCESS"}
    _, code = end_of(one.error_code)
    return {**head, "task_status": "FAIL", "error": {"code": code, "message": one.error_message or "the task failed"}}


def completion(one: Task) -> dict[str, Any]:
    """The upstream's answer under our ids and the client's model name."""
    body: dict[str, Any] = orjson.loads(one.result or "{}")
    body.pop("task_status", None)  # of an upstream that was submitted to and polled
    body |= {"id": str(one.id), "request_id": one.request_id or str(one.id), "model": one.model}
    body.setdefault("created", int(one.created_at.timestamp()))
    if not _complete(body.get("usage")):
        body["usage"] = _counted(one)
    for choice in body.get("choices", ()):
        reason = choice.get("finish_reason")
        choice["finish_reason"] = reason if reason and isinstance(reason, str) else "stop"
    return body


def embeddings(one: Task) -> dict[str, Any]:
    """The vectors under the client's model name. The SDKs want all three usage numbers."""
    body: dict[str, Any] = orjson.loads(one.result or "{}")
    usage = body.get("usage")
    told = {**usage} if isinstance(usage, dict) else {}
    if not isinstance(told.get("prompt_tokens"), int):
        told = _counted(one)
    told.setdefault("completion_tokens", 0)
    told.setdefault("total_tokens", told["prompt_tokens"])
    return {**body, "object": "list", "model": one.model, "usage": told}


def _complete(usage: Any) -> bool:
    return isinstance(usage, dict) and all(
        isinstance(usage.get(name), int) for name in ("prompt_tokens", "completion_tokens", "total_tokens")
    )


def _counted(one: Task) -> dict[str, int]:
    """What the accounts hold, where the upstream told no usage or half of one."""
    bought = next((a for a in one.attempts if a.outcome is AttemptOutcome.SUCCEEDED), None)
    prompt = (bought.prompt_tokens if bought else None) or 0
    answered = (bought.completion_tokens if bought else None) or 0
    return {"prompt_tokens": prompt, "completion_tokens": answered, "total_tokens": prompt + answered}
