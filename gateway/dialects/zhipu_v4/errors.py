"""ZhipuAI's one table from error to answer: `{"error": {"code": "1214", "message": "..."}}`, the code a string.

Sources: docs.bigmodel.cn, "error codes"; the SDKs' mapping from status to exception. A 409 is never
answered: the SDKs retry it. `x-should-retry: false` (which they obey) stands on what is final.
"""

from __future__ import annotations

import fastapi
import pydantic
from starlette.exceptions import HTTPException

from gateway.dialects.route import json_response
from gateway.ends import end_of
from gateway.openapi import error_answers
from tollgate.domain import errors

RETRY_AFTER_S = 2
FINAL = {"x-should-retry": "false"}

AUTHENTICATION_CODES = {
    "missing": "1001",
    "malformed": "1002",
    "unknown": "1000",
    "signature": "1004",
    "expired": "1003",
    "revoked": "1000",
}
LIMIT_CODES = {"max_in_flight": "1302", "requests_per_minute": "1303", "tokens_per_minute": "1303"}
"""Too many at once, and too many in a time."""
ANSWERS: tuple[tuple[type[Exception], int, str], ...] = (
    (errors.UnknownModelError, 400, "1211"),
    (errors.FileTooLargeError, 435, "1210"),
    (errors.PayloadTooLargeError, 413, "1210"),
    (errors.FileInUseError, 400, "1200"),
    (errors.StorageFullError, 507, "1230"),
    (errors.FilesUnavailableError, 503, "1230"),
    (errors.PermissionDeniedError, 403, "1220"),
    (errors.NotFoundError, 404, "1200"),
    (errors.BudgetExceededError, 429, "1113"),
    (errors.RequestIdConflictError, 400, "1231"),
    (errors.ErasedError, 410, "1200"),
    (errors.StoreUnavailableError, 503, "1120"),
)


class ZhipuProblem(pydantic.BaseModel):
    code: str = pydantic.Field(description="ZhipuAI's business code")
    message: str


class ZhipuError(pydantic.BaseModel):
    """Every error of ZhipuAI's wire."""

    error: ZhipuProblem


RESPONSES = error_answers(ZhipuError)


def answer(error: Exception) -> fastapi.Response:
    if isinstance(error, errors.AuthenticationError):
        return error_response(401, AUTHENTICATION_CODES[error.reason], str(error))
    if isinstance(error, errors.InvalidRequestError):
        allowed = f" (allowed: {error.allowed})" if error.allowed else ""
        return error_response(400, error.code, f"{error}{allowed}")
    if isinstance(error, errors.RateLimitedError):
        return error_response(429, LIMIT_CODES[error.limit], str(error))
    if isinstance(error, HTTPException):
        return error_response(error.status_code, "1222" if error.status_code == 404 else "1200", str(error.detail))
    for known, status, code in ANSWERS:
        if isinstance(error, known):
            return error_response(status, code, str(error), headers=_headers(error))
    return error_response(500, "500", "an error inside Tollgate; its log says more")


def _headers(error: Exception) -> dict[str, str]:
    """A budget is not there again in a second, which is what the SDKs take a 429 to mean; nor is a disk."""
    if isinstance(error, errors.BudgetExceededError | errors.StorageFullError):
        return FINAL
    passes = isinstance(error, errors.StoreUnavailableError | errors.FilesUnavailableError)
    return {"Retry-After": str(RETRY_AFTER_S)} if passes else {}


def failed_task(code: str | None, message: str | None, *, task_id: str) -> fastapi.Response:
    """The answer of a synchronous call whose task failed: final, the gateway has already retried."""
    status, shown = end_of(code)
    headers = {**FINAL}
    if status in (429, 503):
        headers["Retry-After"] = str(RETRY_AFTER_S)
    return error_response(status, shown, f"{message or 'the task failed'} (task {task_id})", headers=headers)


def error_response(status: int, code: str, message: str, *, headers: dict[str, str] | None = None) -> fastapi.Response:
    return json_response({"error": {"code": code, "message": message}}, status=status, headers=headers)
