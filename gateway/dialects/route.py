"""What every dialect's routes share: errors leave in the dialect's own form, and the key that asks."""

from __future__ import annotations

import inspect
import logging
import re
from collections.abc import Callable, Coroutine
from typing import Annotated, Any
from uuid import UUID

import fastapi
import orjson
import pydantic
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from starlette.requests import ClientDisconnect

from gateway import submitting
from gateway.openapi import NEEDS_KEY
from gateway.services import Services, services_of
from gateway.validation import explain_query
from tollgate.domain.errors import NotFoundError, TollgateError
from tollgate.domain.ids import parse_id
from tollgate.domain.tasks import Key

log = logging.getLogger("tollgate.gateway")

CLIENT_LEFT = 499
"""nginx's number for it; nobody reads it."""
Answer = Callable[[Exception], fastapi.Response]
Handler = Callable[[fastapi.Request], Coroutine[Any, Any, fastapi.Response]]
MAX_WAIT_S = 300
_PREFERRED = re.compile(r"(?:^|[,;\s])wait\s*=\s*\"?(\d{1,9})")
_WAIT = pydantic.TypeAdapter(Annotated[float, pydantic.Field(ge=0, le=MAX_WAIT_S)])
OF_TASK: dict[str, Any] = {
    "parameters": [
        {"name": "task_id", "in": "path", "required": True, "schema": {"type": "string", "title": "Task Id"}},
        {
            "name": "wait",
            "in": "query",
            "required": False,
            "description": "hold the answer so many seconds, or until the end",
            "schema": {"type": "number", "minimum": 0, "maximum": MAX_WAIT_S, "default": 0, "title": "Wait"},
        },
    ]
}
"""Of a route's `openapi_extra`: it reads its parameters itself, with `task_asked`."""


def route_class(answer: Answer, *, needs_key: bool = True) -> type[APIRoute]:
    """Routes whose every error is told by `answer`: never FastAPI's `detail`, never a 422.

    `needs_key` is for the documentation: it is KeyDep that asks for one."""
    documented = NEEDS_KEY if needs_key else {}

    class DialectRoute(APIRoute):
        def __init__(self, *args: Any, openapi_extra: dict[str, Any] | None = None, **options: Any) -> None:
            super().__init__(*args, openapi_extra={**documented, **(openapi_extra or {})}, **options)

        def get_route_handler(self) -> Handler:
            # What takes the request alone leaves nothing to solve: FastAPI's own handler costs 60 us, a submit 300.
            asks_for = inspect.signature(self.endpoint).parameters
            handle = self.endpoint if list(asks_for) == ["request"] else super().get_route_handler()

            async def answered(request: fastapi.Request) -> fastapi.Response:
                try:
                    return await handle(request)
                except TollgateError as error:
                    return submitting.tell_when(error, answer(error))
                except RequestValidationError as error:
                    return answer(explain_query(error.errors()[0]))
                except ClientDisconnect:
                    return fastapi.Response(status_code=CLIENT_LEFT)
                except Exception as error:
                    log.exception("request broke", extra={"path": request.url.path})
                    return answer(error)

            async def handler(request: fastapi.Request) -> fastapi.Response:
                return submitting.tell(request, await answered(request))

            return handler

    return DialectRoute


async def caller(request: fastapi.Request) -> tuple[Services, Key]:
    """What to work with, and whose request it is. Raises AuthenticationError.

    Called by the routes that are asked thousands of times a second; the others have it as dependencies."""
    services = services_of(request)
    return services, await services.keyring.authenticate(request.headers.get("authorization"))


async def _authenticated(request: fastapi.Request) -> Key:
    return (await caller(request))[1]


KeyDep = Annotated[Key, fastapi.Depends(_authenticated)]


def task_asked(request: fastapi.Request) -> tuple[UUID, float]:
    """The task of the path, and how long its end is waited for, in seconds.

    Raises NotFoundError, InvalidRequestError."""
    wait_s = wait_asked(request)
    return require_id(request.path_params["task_id"]), wait_s


def wait_asked(request: fastapi.Request) -> float:
    """Seconds, of `?wait=` or of `Prefer: wait=` (RFC 7240, 4.3), which is a wish: what it cannot be is passed over.

    Raises InvalidRequestError."""
    given = request.query_params.get("wait") if request.scope["query_string"] else None
    if given is None:
        preferred = _PREFERRED.search(request.headers.get("prefer", ""))
        return min(float(preferred[1]), MAX_WAIT_S) if preferred else 0.0
    try:
        return _WAIT.validate_python(given)
    except pydantic.ValidationError as error:
        raise explain_query({**error.errors()[0], "loc": ("query", "wait")}) from None


def require_id(text: str, *, kind: str = "task") -> UUID:
    """Raises NotFoundError for what is no id at all: it names nothing here."""
    parsed = parse_id(text)
    if parsed is None:
        raise NotFoundError(kind, text)
    return parsed


def upstream_header(answered_by: str | None) -> dict[str, str]:
    """Of an answer in whichever dialect: upstream and model there, where it is known who answered."""
    return {"x-upstream": answered_by} if answered_by else {}


def json_response(body: Any, *, status: int = 200, headers: dict[str, str] | None = None) -> fastapi.Response:
    """orjson, all of it: also the answers of hot routes, without FastAPI's own encoding."""
    return fastapi.Response(orjson.dumps(body), status, headers, media_type="application/json")
