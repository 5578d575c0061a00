"""Submits a request's tasks, in whichever dialect, with the callback_url of its headers; and writes into those of its
answer the task's id, what is left of the key's limits, and when a refused one may come again."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import fastapi

from gateway.limiting import Meter
from gateway.services import Services
from tollgate.domain.errors import InvalidRequestError, RateLimitedError
from tollgate.domain.tasks import Accepted, Key, TaskRequest

METER = "tollgate.meter"
TASK_ID = "tollgate.task_id"
"""Of an ASGI scope, which is the request's own: its key's meter, if that has limits, and the one task it made."""
MAX_RETRY_AFTER_S = 60
"""openai's SDK passes over a longer one, and is back within a second."""


async def submit_one(request: fastapi.Request, services: Services, key: Key, asked: TaskRequest) -> Accepted:
    """Raises what `Intake.submit_one` does."""
    asked = _called_back(request, asked)
    accepted = await services.intake.submit_one(asked, key=key, meter=_meter(request, services, key))
    request.scope[TASK_ID] = accepted.id
    return accepted


async def submit_all(
    request: fastapi.Request, services: Services, key: Key, asked: Sequence[TaskRequest]
) -> tuple[Accepted, ...]:
    """Raises what `Intake.submit_all` does; InvalidRequestError for a callback_url of all."""
    if "x-callback-url" in request.headers:
        raise InvalidRequestError(
            "x-callback-url is for a request of one task; write callback_url into the tasks of the list that have one",
            field="x-callback-url",
        )
    return await services.intake.submit_all(asked, key=key, meter=_meter(request, services, key))


def _called_back(request: fastapi.Request, asked: TaskRequest) -> TaskRequest:
    """With the callback_url of `x-callback-url`, where the body has none: SDKs' have no such field. Admission checks
    it."""
    url = request.headers.get("x-callback-url")
    return asked if url is None or asked.callback_url is not None else replace(asked, callback_url=url)


def _meter(request: fastapi.Request, services: Services, key: Key) -> Meter | None:
    if not key.limits:
        return None
    meter = request.scope[METER] = Meter(key, services.limiter)
    return meter


def tell(request: fastapi.Request, response: fastapi.Response) -> fastapi.Response:
    """The answer of `request`, with its headers."""
    if (task_id := request.scope.get(TASK_ID)) is not None:
        response.headers["x-task-id"] = str(task_id)
    meter: Meter | None = request.scope.get(METER)
    if meter is not None:
        response.headers.update(dict(meter.headers()))
    return response


def tell_when(error: Exception, response: fastapi.Response) -> fastapi.Response:
    """The answer to a refusal, with when it may be sent again: openai's and ZhipuAI's SDKs do that by themselves."""
    if isinstance(error, RateLimitedError):
        if error.retry_after_s is None:
            response.headers["x-should-retry"] = "false"
        else:
            response.headers["retry-after"] = str(min(MAX_RETRY_AFTER_S, max(1, math.ceil(error.retry_after_s))))
    return response
