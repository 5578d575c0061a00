"""The native API's one table from error to answer."""

from __future__ import annotations

from typing import Any

import fastapi
import pydantic
from starlette.exceptions import HTTPException

from gateway.dialects.route import json_response
from gateway.intake import ListedRequestError
from gateway.openapi import error_answers
from tollgate.domain import errors

RETRY_AFTER_S = 2

ANSWERS: tuple[tuple[type[Exception], int, str], ...] = (
    (errors.InvalidRequestError, 400, "invalid_request"),
    (errors.UnknownModelError, 400, "unknown_model"),
    (errors.PayloadTooLargeError, 413, "too_large"),
    (errors.FileInUseError, 409, "in_use"),
    (errors.StorageFullError, 507, "storage_full"),
    (errors.FilesUnavailableError, 503, "unavailable"),
    (errors.AuthenticationError, 401, "unauthorized"),
    (errors.BudgetExceededError, 402, "budget_exceeded"),
    (errors.RateLimitedError, 429, "rate_limited"),
    (errors.PermissionDeniedError, 403, "forbidden"),
    (errors.NotFoundError, 404, "not_found"),
    (errors.RequestIdConflictError, 409, "conflict"),
    (errors.StillOpenError, 409, "still_open"),
    (errors.ErasedError, 410, "erased"),
    (errors.StoreUnavailableError, 503, "unavailable"),
)


class Problem(pydantic.BaseModel):
    type: str
    message: str
    field: str | None = pydantic.Field(None, description='of the body or the query: "tasks.3.temperature"')
    allowed: str | None = pydantic.Field(None, description="what may stand there")
    reason: str | None = pydantic.Field(None, description="of a refused key: missing, malformed, unknown, ...")
    known: list[str] | None = pydantic.Field(None, description="of an unknown model: the names there are")
    task_id: str | None = pydantic.Field(None, description="of a conflict: the task that has this request_id")
    batch_id: str | None = pydantic.Field(None, description="of a file in use: the batch that is read from it")
    budget_id: str | None = pydantic.Field(None, description="of an exceeded budget")
    left: dict[str, str | int] | None = pydantic.Field(
        None, description='what that budget has left: "cost" a decimal string, "tokens" a count; only what it limits'
    )
    limit: str | None = pydantic.Field(
        None, description="that is reached: requests_per_minute, tokens_per_minute or max_in_flight"
    )
    limit_value: int | None = pydantic.Field(None, description="of that limit")
    limit_left: int | None = pydantic.Field(None, description="of that limit, as it was asked")


class Error(pydantic.BaseModel):
    """Every error of the native API."""

    error: Problem


RESPONSES = error_answers(Error)


def answer(error: Exception) -> fastapi.Response:
    at, cause = "", error
    if isinstance(error, ListedRequestError):
        at, cause = f"tasks.{error.index}.", error.error
    status, kind = _status(cause)
    message = "an error inside Tollgate; its log says more" if status == 500 else _message(error)
    body = {"type": kind, "message": message, **_details(cause, at)}
    return json_response({"error": body}, status=status, headers=_headers(cause))


def _status(error: Exception) -> tuple[int, str]:
    if isinstance(error, HTTPException):
        return error.status_code, "not_found" if error.status_code == 404 else "invalid_request"
    return next(((status, kind) for known, status, kind in ANSWERS if isinstance(error, known)), (500, "internal"))


def _message(error: Exception) -> str:
    return str(error.detail if isinstance(error, HTTPException) else error)


def _details(error: Exception, at: str) -> dict[str, Any]:
    told: dict[str, Any] = {}
    match error:
        case errors.InvalidRequestError():
            told = {"field": at + error.field} | ({"allowed": error.allowed} if error.allowed else {})
        case errors.UnknownModelError():
            told = {"field": f"{at}model", "known": list(error.known)}
        case errors.AuthenticationError():
            told = {"reason": error.reason}
        case errors.BudgetExceededError():
            told = {"budget_id": error.budget_id, "left": dict(error.left)}
        case errors.RateLimitedError():
            told = {"limit": error.limit, "limit_value": error.allowed, "limit_left": error.left}
        case errors.RequestIdConflictError():
            told = {"task_id": error.task_id}
        case errors.FileInUseError():
            told = {"batch_id": error.batch_id}
    return told


def _headers(error: Exception) -> dict[str, str]:
    if _status(error)[0] == 503:
        return {"Retry-After": str(RETRY_AFTER_S)}
    if isinstance(error, errors.AuthenticationError):
        return {"WWW-Authenticate": "Bearer"}
    return {}
