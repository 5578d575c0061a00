"""POST /tasks: from a JSON body to TaskRequests."""

from __future__ import annotations

from typing import Any

from gateway import task_body, turns
from gateway.bodies import require_object
from tollgate.domain.errors import InvalidRequestError, PayloadTooLargeError
from tollgate.domain.tasks import TaskRequest


async def tasks(body: Any, *, max_tasks: int) -> tuple[list[TaskRequest], bool]:
    """The requests, and whether the body was a list. Raises InvalidRequestError, PayloadTooLargeError.

    A long list is checked in turns with the loop's other work."""
    if isinstance(body, dict) and "tasks" not in body:
        return [task_body.task_of(body)], False
    listed = _list(body)
    if not isinstance(listed, list) or not listed:
        raise InvalidRequestError(
            "the list of tasks is empty or no list",
            field="tasks",
            allowed=f"a task, or a list of 1 to {max_tasks} tasks",
            code="1210",
        )
    if len(listed) > max_tasks:
        raise PayloadTooLargeError(f"{len(listed):,} tasks in one call; at most {max_tasks:,}: send several lists")
    return [_listed(one, i) async for i, one in turns.of(listed)], True


def _listed(given: Any, index: int) -> TaskRequest:
    return task_body.task_of(require_object(given, field=f"tasks.{index}"), at=f"tasks.{index}.")


def _list(body: Any) -> Any:
    if not isinstance(body, dict):
        return body
    beside = sorted(set(body) - {"tasks"})
    if beside:
        raise InvalidRequestError(
            f"{beside[0]}: nothing stands beside tasks; write it into each of them", field=beside[0], code="1210"
        )
    return body["tasks"]
