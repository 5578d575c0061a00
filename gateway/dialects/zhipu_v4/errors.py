"""ZhipuAI's one table from error to answer: `{"error": {"code": "1214", "message": "..."}}`, the code a string.

Sources: docs.bigmodel.cn, "error codes"; the SDKs' mapping from status to exception. A 409 is never
answered: the SDKs retry it. `x-should-retry: false` (which they obey) stands on what is final.
"""

from __future__ import annotations

import fastapi
from starlette.exceptions import HTTPException

from gateway.dialects.route import json_response
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
ANSWERS: tuple[tuple[type[Exception], int, str], ...] = (
    (errors.UnknownModelError, 400, "1211"),
    (errors.PayloadTooLargeError, 413, "1210"),
    (errors.PermissionDeniedError, 403, "1220"),
    (errors.NotFoundError, 404, "1200"),
    (errors.RequestIdConflictError, 400, "1231"),
    (errors.StoreUnavailableError, 503, "1120"),
)
TASK_STATUSES = {
    **dict.fromkeys(("1300", "1301", "1261", "1210", "1211", "1212", "1213", "1214", "1215"), 400),
    **dict.fromkeys(("1220", "1221", "1222"), 403),
    **dict.fromkeys(("1302", "1303", "1304", "1305", "1308", "1310", "1312"), 429),
    **dict.fromkeys(("429", "rate_limited", "overloaded", "503"), 429),
    "cancelled": 400,
    "expired": 503,
}
"""A failed task's code -> the HTTP status of the synchronous call that waited for it; 500 for any other."""


def answer(error: Exception) -> fastapi.Response:
    if isinstance(error, errors.AuthenticationError):
        return error_response(401, AUTHENTICATION_CODES[error.reason], str(error))
    if isinstance(error, errors.InvalidRequestError):
        allowed = f" (allowed: {error.allowed})" if error.allowed else ""
        return error_response(400, error.code, f"{error}{allowed}")
    if isinstance(error, HTTPException):
        return error_response(error.status_code, "1222" if error.status_code == 404 else "1200", str(error.detail))
    for known, status, code in ANSWERS:
        if isinstance(error, known):
            headers = {"Retry-After": str(RETRY_AFTER_S)} if status == 503 else None
            return error_response(status, code, str(error), headers=headers)
    return error_response(500, "500", "an error inside Tollgate; its log says more")


def failed_task(code: str, message: str, *, task_id: str) -> fastapi.Response:
    """The answer of a synchronous call whose task failed: final, the gateway has already retried."""
    status = TASK_STATUSES.get(code, 500)
    headers = {**FINAL, "x-task-id": task_id}
    if status in (429, 503):
        headers["Retry-After"] = str(RETRY_AFTER_S)
    shown = code if code.isdigit() else {400: "1200", 429: "1305", 503: "1120"}.get(status, "1234")
    return error_response(status, shown, f"{message} (task {task_id})", headers=headers)


def error_response(status: int, code: str, message: str, *, headers: dict[str, str] | None = None) -> fastapi.Response:
    return json_response({"error": {"code": code, "message": message}}, status=status, headers=headers)
