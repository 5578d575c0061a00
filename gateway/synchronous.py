"""A call that waits for its task's end, in whichever dialect."""

from __future__ import annotations

from dataclasses import replace

import fastapi
from starlette.requests import ClientDisconnect

from gateway.leaving import unless_left
from gateway.querying import cancel_task, give_up_if_paused, read_new_task, read_task
from gateway.services import Services
from tollgate.domain.states import TaskState
from tollgate.domain.tasks import Accepted, Key, TaskRequest
from tollgate.settings import Settings
from tollgate.store.tasks import Task


class LateError(Exception):
    """The time of a synchronous call is over; its text says what becomes of the task."""


def bounded(asked: TaskRequest, settings: Settings) -> TaskRequest:
    """Somebody waits for it: it is retried for a short time only, and without a stream it ends with the wait."""
    timeout_s = None if asked.stream else settings.sync_timeout_s
    return replace(asked, retry_for_s=settings.sync_retry_s, timeout_s=timeout_s)


async def answered(request: fastapi.Request, services: Services, key: Key, accepted: Accepted) -> Task:
    """The task, ended. Raises LateError, and ClientDisconnect for a client that left.

    Such a client's task runs on and its result can be fetched. With `x-on-disconnect: cancel` it is cancelled."""
    try:
        one = await unless_left(request, _wait(services, key, accepted))
    except ClientDisconnect:
        if request.headers.get("x-on-disconnect") == "cancel" and not accepted.duplicate:
            await cancel_task(services, key, accepted.id)
        raise
    return one if one.state.ended else await _late(services, key, accepted)


async def _wait(services: Services, key: Key, accepted: Accepted) -> Task:
    """The task at its end, or when time is over. One that a paused upstream keeps waiting is given up sooner."""
    patience_s = min(services.settings.sync_retry_s, services.settings.sync_timeout_s)
    if accepted.duplicate:
        one = await read_task(services, key, accepted.id, wait_s=patience_s)
    else:
        one = await read_new_task(services, key, accepted.id, wait_s=patience_s)
        one = await give_up_if_paused(services, key, one)
    left_s = services.settings.sync_timeout_s - patience_s
    return one if one.state.ended else await read_task(services, key, accepted.id, wait_s=left_s)


async def _late(services: Services, key: Key, accepted: Accepted) -> Task:
    """Time is over: the task this call made is cancelled. One that was there before belongs to others too."""
    if services.waiters.released:
        raise LateError(f"the gateway is stopping; task {accepted.id} goes on: GET /tasks/{accepted.id}")
    late = f"no answer within {services.settings.sync_timeout_s:g} s; task {accepted.id}"
    if accepted.duplicate:
        raise LateError(f"{late} goes on")
    if (await cancel_task(services, key, accepted.id)) is TaskState.SUCCEEDED:
        return await read_task(services, key, accepted.id)
    raise LateError(f"{late} was cancelled")
