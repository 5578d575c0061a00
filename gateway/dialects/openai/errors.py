"""Errors as OpenAI tells them: `{"error": {"message", "type", "param", "code"}}`.

Source: platform.openai.com, "error codes"; openai's SDK, which raises a class by the status alone. A 409 is never
answered: the SDK retries it. `x-should-retry: false` (which it obeys) stands on what is final.
"""

from __future__ import annotations

import fastapi
import pydantic
from starlette.exceptions import HTTPException

from gateway.dialects.route import json_response
from gateway.openai_answers import failure, problem
from gateway.openapi import error_answers
from tollgate.domain import errors

RETRY_AFTER_S = 2
FINAL = {"x-should-retry": "false"}
AGAIN = {"Retry-After": str(RETRY_AFTER_S)}
LIMIT_TYPES = {"tokens_per_minute": "tokens"}
"""As OpenAI calls the limit that is reached; any other is of "requests"."""
ANSWERS: tuple[tuple[type[Exception], int, str, str | None, dict[str, str]], ...] = (
    (errors.AuthenticationError, 401, "invalid_request_error", "invalid_api_key", {}),
    (errors.UnknownModelError, 404, "invalid_request_error", "model_not_found", {}),
    (errors.PayloadTooLargeError, 413, "invalid_request_error", "payload_too_large", {}),
    (errors.PermissionDeniedError, 403, "invalid_request_error", "permission_denied", {}),
    (errors.NotFoundError, 404, "invalid_request_error", "not_found", {}),
    (errors.BudgetExceededError, 429, "insufficient_quota", "insufficient_quota", FINAL),
    (errors.RequestIdConflictError, 400, "invalid_request_error", "request_id_conflict", {}),
    (errors.FileInUseError, 400, "invalid_request_error", "file_in_use", {}),
    (errors.StorageFullError, 507, "server_error", "storage_full", FINAL),
    (errors.FilesUnavailableError, 503, "server_error", "files_unavailable", AGAIN),
    (errors.ErasedError, 410, "invalid_request_error", "erased", {}),
    (errors.StoreUnavailableError, 503, "server_error", "store_unavailable", AGAIN),
)
"""Exception -> status, type, code and headers."""


class OpenAIProblem(pydantic.BaseModel):
    message: str
    type: str
    param: str | None = pydantic.Field(description="the field that is wrong")
    code: str | None


class OpenAIError(pydantic.BaseModel):
    """Every error of OpenAI's wire."""

    error: OpenAIProblem


RESPONSES = error_answers(OpenAIError)


def answer(error: Exception) -> fastapi.Response:
    if isinstance(error, errors.InvalidRequestError):
        allowed = f" (allowed: {error.allowed})" if error.allowed else ""
        return error_response(400, f"{error}{allowed}", code="invalid_value", param=error.field)
    if isinstance(error, errors.RateLimitedError):
        kind = LIMIT_TYPES.get(error.limit, "requests")
        return error_response(429, str(error), kind=kind, code="rate_limit_exceeded")
    if isinstance(error, HTTPException):
        return error_response(error.status_code, str(error.detail), code="unknown_url")
    for known, status, kind, code, headers in ANSWERS:
        if isinstance(error, known):
            return error_response(status, str(error), kind=kind, code=code, headers=headers)
    return error_response(500, "an error inside Tollgate; its log says more", kind="server_error")


def failed_task(code: str | None, message: str | None, *, task_id: str) -> fastapi.Response:
    """The answer of a call whose task failed: final, the gateway has already retried."""
    status, body = failure(code, f"{message or 'the task failed'} (task {task_id})")
    headers = {**FINAL, **(AGAIN if status in (429, 503) else {})}
    return json_response(body, status=status, headers=headers)


def error_response(
    status: int,
    message: str,
    *,
    kind: str = "invalid_request_error",
    code: str | None = None,
    param: str | None = None,
    headers: dict[str, str] | None = None,
) -> fastapi.Response:
    return json_response(problem(message, kind=kind, code=code, param=param), status=status, headers=headers)
