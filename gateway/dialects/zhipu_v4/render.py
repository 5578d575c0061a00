"""A task on ZhipuAI's v4 wire. The SDKs validate async results: ids are strings, `finish_reason` a string,
`choices` and all three usage numbers are there; and a finished result reads the same every time."""

from __future__ import annotations

from typing import Any

import orjson

from tollgate.domain.states import TaskState
from tollgate.store.tasks import Task


def processing(task_id: str, *, request_id: str | None, model: str) -> dict[str, Any]:
    return {"id": task_id, "request_id": request_id or task_id, "model": model, "task_status": "PROCESSING"}


def async_result(one: Task) -> dict[str, Any]:
    head = processing(str(one.id), request_id=one.request_id, model=one.model)
    if not one.state.ended:
        return head
    if one.state is TaskState.SUCCEEDED:
        return {**completion(one), "task_status": "SUCCESS"}
    return {**head, "task_status": "FAIL", "error": {"code": one.error_code or "1200", "message": one.error_message}}


def completion(one: Task) -> dict[str, Any]:
    """The upstream's answer under our ids and the client's model name."""
    body: dict[str, Any] = orjson.loads(one.result or "{}")
    body |= {"id": str(one.id), "request_id": one.request_id or str(one.id), "model": one.model}
    body.setdefault("created", int(one.created_at.timestamp()))
    if not _complete(body.get("usage")):
        body["usage"] = _counted(one)
    for choice in body.get("choices", ()):
        choice["finish_reason"] = choice.get("finish_reason") or "stop"
    return body


def _complete(usage: Any) -> bool:
    return isinstance(usage, dict) and all(
        isinstance(usage.get(name), int) for name in ("prompt_tokens", "completion_tokens", "total_tokens")
    )


def _counted(one: Task) -> dict[str, int]:
    """What the accounts hold, where the upstream told no usage or half of one: the last attempt's tokens."""
    last = one.attempts[-1] if one.attempts else None
    prompt = (last.prompt_tokens if last else None) or 0
    answered = (last.completion_tokens if last else None) or 0
    return {"prompt_tokens": prompt, "completion_tokens": answered, "total_tokens": prompt + answered}
