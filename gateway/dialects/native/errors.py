"""The native API's one table from error to answer."""

from __future__ import annotations

from typing import Any

import fastapi
from starlette.exceptions import HTTPException

from gateway.dialects.route import json_response
from tollgate.domain import errors

RETRY_AFTER_S = 2

ANSWERS: tuple[tuple[type[Exception], int, str], ...] = (
    (errors.InvalidRequestError, 400, "invalid_request"),
    (errors.UnknownModelError, 400, "unknown_model"),
    (errors.PayloadTooLargeError, 413, "too_large"),
    (errors.AuthenticationError, 401, "unauthorized"),
    (errors.PermissionDeniedError, 403, "forbidden"),
    (errors.NotFoundError, 404, "not_found"),
    (errors.RequestIdConflictError, 409, "conflict"),
    (errors.StoreUnavailableError, 503, "unavailable"),
)


def answer(error: Exception) -> fastapi.Response:
    status, kind = next(
        ((status, kind) for known, status, kind in ANSWERS if isinstance(error, known)), (500, "internal")
    )
    message = str(error)
    if isinstance(error, HTTPException):
        status, kind, message = (
            error.status_code,
            "not_found" if error.status_code == 404 else "http",
            str(error.detail),
        )
    elif kind == "internal":
        message = "an error inside Tollgate; its log says more"
    body = {"type": kind, "message": message, **_details(error)}
    return json_response({"error": body}, status=status, headers=_headers(error))


def _details(error: Exception) -> dict[str, Any]:
    match error:
        case errors.InvalidRequestError():
            return {"field": error.field} | ({"allowed": error.allowed} if error.allowed else {})
        case errors.UnknownModelError():
            return {"field": "model", "known": list(error.known)}
        case errors.AuthenticationError():
            return {"reason": error.reason}
        case errors.RequestIdConflictError():
            return {"task_id": error.task_id}
        case _:
            return {}


def _headers(error: Exception) -> dict[str, str]:
    if isinstance(error, errors.StoreUnavailableError):
        return {"Retry-After": str(RETRY_AFTER_S)}
    if isinstance(error, errors.AuthenticationError):
        return {"WWW-Authenticate": "Bearer"}
    return {}
