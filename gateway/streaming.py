"""A call whose answer is streamed, in the form of whichever dialect: a task like any other, followed as it is written.

What fails before its first word is answered with an HTTP status, as a call without a stream would be: the SDKs raise
what their users catch. After it, nothing is repeated silently: an error frame ends the stream.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing, suppress
from typing import Protocol

import fastapi
from starlette.requests import ClientDisconnect

from gateway.event_stream import COMMENT, EventStream
from gateway.following import Ended, Event, Quiet, Restarted, Wrote, follow
from gateway.leaving import unless_left
from gateway.querying import cancel_task, give_up_if_paused, read_task
from gateway.services import Services
from tollgate.domain.errors import StoreUnavailableError
from tollgate.domain.states import TaskState
from tollgate.domain.tasks import Accepted, Key
from tollgate.store.tasks import Task


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

    events = follow(services, key, accepted.id, new=not accepted.duplicate)
    try:
        first = await unless_left(request, anext(events))
    except BaseException as error:
        await events.aclose()
        if isinstance(error, ClientDisconnect):
            await left()
        raise
    if isinstance(first, Ended) and first.task.state is not TaskState.SUCCEEDED and first.task.state.ended:
        return frames.refused(first.task)
    written = _written(services, key, accepted, first, events, frames, left)
    return EventStream(written, left=left, headers={"x-task-id": str(accepted.id)})


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


async def _look_after(services: Services, key: Key, accepted: Accepted) -> None:
    """A task that nothing is heard of may wait for an upstream that is paused."""
    if not accepted.duplicate:
        with suppress(StoreUnavailableError):
            await give_up_if_paused(services, key, await read_task(services, key, accepted.id))


def _last(task: Task, frames: Frames) -> bytes:
    if task.state is TaskState.SUCCEEDED:
        return frames.succeeded(task)
    if not task.state.ended:
        return frames.failed(None, f"the gateway is stopping; task {task.id} goes on")
    return frames.failed(task.error_code, f"{task.error_message or 'the task failed'} (task {task.id})")
