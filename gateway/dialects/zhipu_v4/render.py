"""A task on ZhipuAI's v4 wire."""

from __future__ import annotations

from typing import Any

from gateway import answers
from gateway.ends import end_of
from tollgate.domain.states import TaskState
from tollgate.store.tasks import Task


def processing(task_id: str, *, request_id: str | None, model: str) -> dict[str, Any]:
    return {"id": task_id, "request_id": request_id or task_id, "model": model, "task_status": "PROCESSING"}


def async_result(one: Task) -> dict[str, Any]:
    head = processing(str(one.id), request_id=one.request_id, model=one.model)
    if not one.state.ended:
        return head
    if one.state is TaskState.SUCCEEDED:
        return {**answers.completion(one), "task_status": "SUCCESS"}
    _, code = end_of(one.error_code)
    return {**head, "task_status": "FAIL", "error": {"code": code, "message": one.error_message or "the task failed"}}
