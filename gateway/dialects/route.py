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

from gateway.services import ServicesDep
from tollgate.domain.errors import InvalidRequestError, NotFoundError, TollgateError
from tollgate.domain.ids import parse_id
from tollgate.domain.tasks import Key

log = logging.getLogger("tollgate.gateway")

Answer = Callable[[Exception], fastapi.Response]
Handler = Callable[[fastapi.Request], Coroutine[Any, Any, fastapi.Response]]
Wait = Annotated[float, fastapi.Query(ge=0, le=300, description="hold the answer so many seconds, or until the end")]


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
                    return answer(_invalid(error))
                except Exception as error:
                    log.exception("request broke", extra={"path": request.url.path})
                    return answer(error)

            return handler

    return DialectRoute


def _invalid(error: RequestValidationError) -> InvalidRequestError:
    """Of a query or path parameter: bodies are checked by the dialects themselves."""
    problem = error.errors()[0]
    name = str(problem["loc"][-1])
    return InvalidRequestError(f"{name}: {problem['msg']}", field=name)


async def _authenticated(request: fastapi.Request, services: ServicesDep) -> Key:
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
