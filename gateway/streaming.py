"""A call whose answer is streamed, in the form of whichever dialect: a task like any other, followed as it is written.

What fails before its first word is answered with an HTTP status, as a call without a stream would be: the SDKs raise
what their users catch. After it, nothing is repeated silently: an error frame ends the stream.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing, suppress
from typing import Protocol

import fastapi
from starlette.requests import ClientDisconnect

from gateway.dialects.route import upstream_header
from gateway.event_stream import COMMENT, EventStream
from gateway.following import QUIET_S, Ended, Event, Quiet, Restarted, Wrote, follow
from gateway.leaving import unless_left
from gateway.querying import cancel_task, give_up_if_paused, read_task
from gateway.services import Services
from tollgate.domain.errors import StoreUnavailableError
from tollgate.domain.states import TaskState
from tollgate.domain.tasks import Accepted, Key
from tollgate.store.tasks import Task

LOOK_EVERY_S = 1.0
"""At most so often is looked why nothing comes."""


class Frames(Protocol):
    """How a dialect writes a stream."""

    def wrote(self, event: Wrote) -> bytes: ...

    def succeeded(self, task: Task) -> bytes:
        """The last frames."""

    def failed(self, code: str | None, message: str) -> bytes:
        """The last frame, where the answer is not whole."""

    def refused(self, task: Task) -> fastapi.Response:
        """The answer where not a word was written."""


async def stream(
    request: fastapi.Request, services: Services, key: Key, accepted: Accepted, frames: Frames
) -> fastapi.Response:
    """The answer of a streamed call whose task was accepted.

    A client that leaves: the task runs on and its result can be fetched. With `x-on-disconnect: cancel` it is
    cancelled."""

    async def left() -> None:
        if request.headers.get("x-on-disconnect") == "cancel" and not accepted.duplicate:
            await cancel_task(services, key, accepted.id)

    patience_s = max(LOOK_EVERY_S, min(services.settings.sync_retry_s, services.settings.sync_timeout_s))
    events = follow(services, key, accepted.id, new=not accepted.duplicate, quiet_s=patience_s)
    try:
        headers_after_s = max(patience_s, QUIET_S)
        first = await unless_left(request, _first(services, key, accepted, events, headers_after_s=headers_after_s))
    except BaseException as error:
        await events.aclose()
        if isinstance(error, ClientDisconnect):
            await left()
        raise
    if isinstance(first, Ended) and first.task.state is not TaskState.SUCCEEDED and first.task.state.ended:
        return frames.refused(first.task)
    written = _written(services, key, accepted, first, events, frames, left)
    return EventStream(written, left=left, headers=upstream_header(_writer_in(first)))


def _writer_in(first: Event) -> str | None:
    """Who writes it, as far as that is known before the first word is sent on."""
    match first:
        case Wrote(route=route):
            return route
        case Ended(task=task):
            return task.answered_by
        case _:
            return None


async def _first(
    services: Services, key: Key, accepted: Accepted, events: AsyncGenerator[Event], *, headers_after_s: float
) -> Event:
    """What comes first; the headers wait for it so long. A task that waits for a paused upstream is given up as soon
    as that of a call without a stream would be."""
    headers_at_s = time.monotonic() + headers_after_s
    while True:
        event = await anext(events)
        if not isinstance(event, Quiet):
            return event
        ended = await _look_after(services, key, accepted)
        if not ended and time.monotonic() >= headers_at_s:
            return event


async def _written(
    services: Services,
    key: Key,
    accepted: Accepted,
    first: Event,
    rest: AsyncGenerator[Event],
    frames: Frames,
    left: Callable[[], Awaitable[None]],
) -> AsyncGenerator[bytes]:
    event = first
    try:
        async with aclosing(rest):
            while True:
                match event:
                    case Wrote():
                        yield frames.wrote(event)
                    case Restarted():
                        told = f"the upstream broke off in the middle of its answer; task {accepted.id} is run again"
                        yield frames.failed(None, told)
                        await left()  # nobody here reads on
                        return
                    case Quiet():
                        yield COMMENT
                        await _look_after(services, key, accepted)
                    case Ended(task=task):
                        yield _last(task, frames)
                        return
                event = await anext(rest)
    except StoreUnavailableError:
        yield frames.failed(None, f"the database does not answer; task {accepted.id} goes on")


async def _look_after(services: Services, key: Key, accepted: Accepted) -> bool:
    """A task that nothing is heard of may wait for an upstream that is paused. Whether it has ended."""
    if accepted.duplicate:
        return False
    with suppress(StoreUnavailableError):
        task = await give_up_if_paused(services, key, await read_task(services, key, accepted.id))
        return task.state.ended
    return False


def _last(task: Task, frames: Frames) -> bytes:
    if task.state is TaskState.SUCCEEDED:
        return frames.succeeded(task)
    if not task.state.ended:
        return frames.failed(None, f"the gateway is stopping; task {task.id} goes on")
    return frames.failed(task.error_code, f"{task.error_message or 'the task failed'} (task {task.id})")
