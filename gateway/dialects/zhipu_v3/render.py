"""A task on the v3 wire: `code`, `msg`, `success`, and `data` with ids, state, choices and usage."""

from __future__ import annotations

import json
from typing import Any

from gateway import answers
from tollgate.domain.states import TaskState
from tollgate.store.tasks import Task

OK = {"code": 200, "msg": "操作成功", "success": True}


def accepted(task_id: str, *, request_id: str | None) -> dict[str, Any]:
    return {**OK, "data": _head(task_id, request_id, "PROCESSING")}


def result(one: Task, *, as_text: bool = False) -> dict[str, Any]:
    """Also of a task that failed: that is a state, not an error of the query."""
    head = _head(str(one.id), one.request_id, one.state.status)
    if one.state is not TaskState.SUCCEEDED:
        return {**OK, "data": head} | ({"msg": one.error_message or "the task failed"} if one.state.ended else {})
    if one.endpoint == "embeddings":
        whole = answers.embeddings(one)
        return {**OK, "data": {**head, "embedding": whole["data"][0]["embedding"], "usage": whole["usage"]}}
    whole = answers.completion(one)
    choices = [_choice(choice["message"], as_text=as_text) for choice in whole["choices"]]
    return {**OK, "data": {**head, "choices": choices, "usage": whole["usage"]}}


def _head(task_id: str, request_id: str | None, status: str) -> dict[str, Any]:
    return {"request_id": request_id or task_id, "task_id": task_id, "task_status": status}


def _choice(message: dict[str, Any], *, as_text: bool) -> dict[str, Any]:
    """The content is a JSON string in the JSON, unless `return_type` was text."""
    content = message.get("content") or ""
    shown = content if as_text else json.dumps(content, ensure_ascii=False)
    return {"role": message.get("role", "assistant"), "content": shown}
