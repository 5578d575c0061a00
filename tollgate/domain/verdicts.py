"""What an upstream's error means: whether it may have been billed, and what to do about it.

The business code in the body is read first (a 429 may mean "no balance"), then the HTTP status, then
what went wrong on the wire. When to do it is decided in `tollgate.domain.retries`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

from tollgate.domain.errors import UpstreamError


class Action(StrEnum):
    """What follows a try without an answer."""

    RETRY = "retry"
    """Refused before it ran, so not billed: the same attempt is repeated."""
    RETRY_UNCERTAIN = "retry_uncertain"
    """It may have been billed: the attempt closes as uncertain, and `on_uncertain` decides."""
    FAIL = "fail"
    """Final: the same request would be refused again."""
    PAUSE = "pause"
    """The credential is refused: it is paused, the task stays queued, and no try is counted."""
    FETCH = "fetch"
    """The upstream has this request_id already: its first answer is fetched."""


class NotBefore(StrEnum):
    """How a limit tells when it ends."""

    NEXT_DAY = "next_day"
    """At the next midnight in China."""
    NAMED_TIME = "named_time"
    """At the time written in the error's message."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What one error means. `reason` is a stable slug for pauses, metrics and failed tasks."""

    action: Action
    reason: str
    slow_down: bool = False
    """Whether the route's concurrency is to be lowered: we asked too much, not others."""
    back_off: Literal["fast", "slow"] = "fast"
    """Slow where the upstream itself is overloaded: asking again soon only adds to it."""
    not_before: NotBefore | None = None


_RATE_LIMITED = Verdict(action=Action.RETRY, reason="rate_limited", slow_down=True)
_OVERLOADED = Verdict(action=Action.RETRY, reason="overloaded", back_off="slow")
_UNREACHABLE = Verdict(action=Action.RETRY, reason="unreachable")
_SERVER_ERROR = Verdict(action=Action.RETRY_UNCERTAIN, reason="server_error")
_NO_ANSWER = Verdict(action=Action.RETRY_UNCERTAIN, reason="no_answer")
_BAD_KEY = Verdict(action=Action.PAUSE, reason="bad_key")
_NO_BALANCE = Verdict(action=Action.PAUSE, reason="no_balance")
_ACCOUNT = Verdict(action=Action.PAUSE, reason="account")
_PLAN = Verdict(action=Action.PAUSE, reason="plan")
_BAD_REQUEST = Verdict(action=Action.FAIL, reason="bad_request")
_NO_MODEL = Verdict(action=Action.FAIL, reason="model_unavailable")
_NOT_PERMITTED = Verdict(action=Action.FAIL, reason="not_permitted")
_TOO_LONG = Verdict(action=Action.FAIL, reason="prompt_too_long")
_BLOCKED = Verdict(action=Action.FAIL, reason="blocked")
_DAILY_LIMIT = Verdict(action=Action.RETRY, reason="daily_limit", back_off="slow", not_before=NotBefore.NEXT_DAY)
_PLAN_LIMIT = Verdict(action=Action.RETRY, reason="plan_limit", back_off="slow", not_before=NotBefore.NAMED_TIME)
_DUPLICATE = Verdict(action=Action.FETCH, reason="duplicate_request_id")

_ZHIPU: Mapping[str, Verdict] = {
    **dict.fromkeys(("1000", "1001", "1002", "1003", "1004", "1100"), _BAD_KEY),
    **dict.fromkeys(("1110", "1111", "1112", "1121"), _ACCOUNT),
    "1113": _NO_BALANCE,
    **dict.fromkeys(("500", "1120", "1200", "1230", "1234"), _SERVER_ERROR),
    **dict.fromkeys(("1210", "1213", "1214", "1215"), _BAD_REQUEST),
    **dict.fromkeys(("1211", "1212", "1221", "1222"), _NO_MODEL),
    "1220": _NOT_PERMITTED,
    "1231": _DUPLICATE,
    "1261": _TOO_LONG,
    **dict.fromkeys(("1300", "1301"), _BLOCKED),
    **dict.fromkeys(("1302", "1303"), _RATE_LIMITED),
    "1304": _DAILY_LIMIT,
    **dict.fromkeys(("1305", "1312"), _OVERLOADED),
    **dict.fromkeys(("1308", "1310"), _PLAN_LIMIT),
    **dict.fromkeys(("1309", "1311", "1313"), _PLAN),
}
"""ZhipuAI's business codes: docs.bigmodel.cn/cn/api/api-code."""

_OPENAI: Mapping[str, Verdict] = {
    **dict.fromkeys(("rate_limit_exceeded", "rate_limit_error", "too_many_requests"), _RATE_LIMITED),
    **dict.fromkeys(("insufficient_quota", "billing_hard_limit_reached", "billing_not_active"), _NO_BALANCE),
    **dict.fromkeys(("invalid_api_key", "invalid_authentication", "authentication_error"), _BAD_KEY),
    "account_deactivated": _ACCOUNT,
    "model_not_found": _NO_MODEL,
    **dict.fromkeys(("context_length_exceeded", "string_above_max_length"), _TOO_LONG),
    **dict.fromkeys(("content_filter", "content_policy_violation"), _BLOCKED),
    **dict.fromkeys(("invalid_request_error", "unsupported_parameter", "invalid_value"), _BAD_REQUEST),
    **dict.fromkeys(("server_error", "internal_error", "internal_server_error"), _SERVER_ERROR),
    **dict.fromkeys(("overloaded", "overloaded_error", "engine_overloaded"), _OVERLOADED),
}
"""Codes of OpenAI's API (platform.openai.com/docs/guides/error-codes) and of servers that speak it."""

_STATUSES: Mapping[int, Verdict] = {
    401: _BAD_KEY,
    402: _NO_BALANCE,
    403: _ACCOUNT,
    404: _NO_MODEL,
    408: _NO_ANSWER,
    413: _TOO_LONG,
    429: _RATE_LIMITED,
    434: _NOT_PERMITTED,
    # A 503 says "unable to handle the request" (RFC 9110, 15.6.4), and ZhipuAI's SDK calls its own
    # "server flow exceeded": refused at the door, so nothing ran and nothing was billed. A 502 or
    # 504 is different: a proxy speaks for a server that may have worked.
    503: _OVERLOADED,
}


def judge(error: UpstreamError) -> Verdict:
    """What `error` means: by business code, else by HTTP status, else by what the wire did."""
    return _by_code(error.code) or _by_status(_status(error)) or _by_kind(error.kind)


def _by_code(code: str | None) -> Verdict | None:
    if code is None:
        return None
    return _ZHIPU.get(code) or _OPENAI.get(code)


def _status(error: UpstreamError) -> int | None:
    """The HTTP status; or the code, where a server repeats the status there inside a 200 or a stream."""
    code, answered_well = error.code or "", error.http_status is None or error.http_status < 300
    if answered_well and len(code) == 3 and code.isascii() and code.isdigit():
        return int(code)
    return error.http_status


def _by_status(status: int | None) -> Verdict | None:
    if status is None or status < 300:
        return None  # an error inside a 200, or no answer: `kind` says more
    if status in _STATUSES:
        return _STATUSES[status]
    # A redirect is not followed: the base URL is wrong, and asking again will not right it.
    return _BAD_REQUEST if status < 500 else _SERVER_ERROR


def _by_kind(kind: str | None) -> Verdict:
    """Only a connection that was never made is known not to be billed."""
    return _UNREACHABLE if kind == "connect" else _NO_ANSWER
