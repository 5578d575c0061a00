"""GET /tasks/{id}/events: any task as server-sent events, from its start or from where a reader was cut off.

An event's id is `attempt:offset`, the offset how many characters of reasoning, text and each tool call's arguments came
so far. A reader that sends its last one back (EventSource does, as `Last-Event-ID`) goes on there, with nothing lost or
repeated, also after the end.

    event: delta      what the model wrote next, in the form of a chat completion's chunk
    event: restart    that attempt broke off: forget what it wrote, the next one begins
    event: end        the task, as GET /tasks/{id} tells it
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator
from typing import Any

import fastapi
import orjson

from gateway.dialects.native import render
from gateway.dialects.native.errors import RESPONSES, answer
from gateway.dialects.route import caller, require_id, route_class
from gateway.event_stream import COMMENT, EventStream, frame
from gateway.following import BEGINNING, Ended, Event, Place, Quiet, Restarted, Wrote, follow
from gateway.leaving import unless_left
from tollgate.domain.errors import InvalidRequestError, StoreUnavailableError

OPENAPI = {
    "parameters": [
        {"name": "task_id", "in": "path", "required": True, "schema": {"type": "string", "title": "Task Id"}},
        {
            "name": "Last-Event-ID",
            "in": "header",
            "required": False,
            "description": "go on after this event",
            "schema": {"type": "string", "title": "Last Event Id"},
        },
    ]
}

STREAM: dict[int | str, dict[str, Any]] = {
    200: {"description": "events `delta`, `restart` and `end`", "content": {"text/event-stream": {}}}
}

router = fastapi.APIRouter(prefix="/tasks", tags=["tasks"], route_class=route_class(answer), responses=RESPONSES)


@router.get("/{task_id}/events", openapi_extra=OPENAPI, response_class=fastapi.Response, responses=STREAM)
async def events(request: fastapi.Request) -> fastapi.Response:
    """A task's answer as it is written, as server-sent events: `delta`, `restart`, and `end` with the whole task.

    A task submitted with `stream` is told word by word; any other in one piece at its end."""
    services, key = await caller(request)
    following = follow(services, key, require_id(request.path_params["task_id"]), place=_place(request))
    try:
        first = await unless_left(request, anext(following))
    except BaseException:
        await following.aclose()
        raise

    async def frames() -> AsyncGenerator[bytes]:
        event = first
        with contextlib.suppress(StoreUnavailableError):  # cut, for the reader to come back
            async with contextlib.aclosing(following):
                while not isinstance(event, Ended):
                    yield _frame(event, currency=services.settings.currency)
                    event = await anext(following)
                # A gateway that stops ends its streams, not their tasks: these are cut, too.
                if event.task.state.ended:
                    yield _frame(event, currency=services.settings.currency)

    return EventStream(frames(), left=_nothing)


async def _nothing() -> None:
    """A reader that leaves is only a reader."""


def _place(request: fastapi.Request) -> Place:
    """Raises InvalidRequestError."""
    given = request.headers.get("last-event-id")
    if not given:
        return BEGINNING
    place = Place.parse(given)
    if place is None:
        raise InvalidRequestError(
            f"Last-Event-ID: {given[:64]!r} is no id of an event here",
            field="Last-Event-ID",
            allowed="the id of the last event read, or leave it out",
        )
    return place


def _frame(event: Event, *, currency: str) -> bytes:
    match event:
        case Wrote():
            return frame(event.delta, event="delta", event_id=str(event.place))
        case Restarted():
            return frame({"attempt": event.attempt}, event="restart")
        case Quiet():
            return COMMENT
        case Ended():
            # Through JSON: the result in it is the upstream's text as it came, lines and all.
            shown = orjson.loads(orjson.dumps(render.task(event.task, currency=currency)))
            return frame(shown, event="end", event_id=str(event.place))
