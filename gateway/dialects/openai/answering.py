"""The answer of a call that waits, on OpenAI's wire."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import fastapi

from gateway.dialects.openai.errors import AGAIN, FINAL, error_response, failed_task
from gateway.dialects.route import json_response, upstream_header
from gateway.services import Services
from gateway.synchronous import LateError, answered
from tollgate.domain.states import TaskState
from tollgate.domain.tasks import Accepted, Key
from tollgate.store.tasks import Task


async def answer_of(
    request: fastapi.Request,
    services: Services,
    key: Key,
    accepted: Accepted,
    *,
    render: Callable[[Task], dict[str, Any]],
) -> fastapi.Response:
    """As soon as the task ends."""
    try:
        one = await answered(request, services, key, accepted)
    except LateError as error:
        headers = {**FINAL, **AGAIN}
        return error_response(503, str(error), kind="server_error", code="timeout", headers=headers)
    if one.state is not TaskState.SUCCEEDED:
        return failed_task(one.error_code, one.error_message, task_id=str(one.id))
    return json_response(render(one), headers=upstream_header(one.answered_by))
