"""What every dialect's routes share: errors leave in the dialect's own form, and the key that asks."""

from __future__ import annotations

import logging
from collections.abc import Callable, Coroutine
from typing import Annotated, Any
from uuid import UUID

import fastapi
import orjson
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from fastapi.security import HTTPBearer
from starlette.requests import ClientDisconnect

from gateway.services import ServicesDep
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
Wait = Annotated[
    float, fastapi.Query(ge=0, le=MAX_WAIT_S, description="hold the answer so many seconds, or until the end")
]
SCHEME = HTTPBearer(
    scheme_name="key", bearerFormat="id.secret, or a JWT", auto_error=False, description="`id.secret`, as it was made"
)
"""For the documentation; `authentication` reads the header itself, since a JWT may come without `Bearer`."""


def route_class(answer: Answer) -> type[APIRoute]:
    """Routes whose every error is told by `answer`: never FastAPI's `detail`, never a 422."""

    class DialectRoute(APIRoute):
        def get_route_handler(self) -> Handler:
            handle = super().get_route_handler()

            async def handler(request: fastapi.Request) -> fastapi.Response:
                try:
                    return await handle(request)
                except TollgateError as error:
                    return answer(error)
                except RequestValidationError as error:
                    return answer(explain_query(error.errors()[0]))
                except ClientDisconnect:
                    return fastapi.Response(status_code=CLIENT_LEFT)
                except Exception as error:
                    log.exception("request broke", extra={"path": request.url.path})
                    return answer(error)

            return handler

    return DialectRoute


async def _authenticated(
    request: fastapi.Request, services: ServicesDep, _: Annotated[object, fastapi.Security(SCHEME)]
) -> Key:
    return await services.keyring.authenticate(request.headers.get("authorization"))


KeyDep = Annotated[Key, fastapi.Depends(_authenticated)]


def require_id(text: str, *, kind: str = "task") -> UUID:
    """Raises NotFoundError for what is no id at all: it names nothing here."""
    parsed = parse_id(text)
    if parsed is None:
        raise NotFoundError(kind, text)
    return parsed


def json_response(body: Any, *, status: int = 200, headers: dict[str, str] | None = None) -> fastapi.Response:
    """orjson, all of it: also the answers of hot routes, without FastAPI's own encoding."""
    return fastapi.Response(orjson.dumps(body), status, headers, media_type="application/json")
