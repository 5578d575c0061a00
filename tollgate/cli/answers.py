"""A task as a person reads it: what it answered, what it cost, and what to do where it failed. Pure."""

from __future__ import annotations

import json
from typing import Any

from tollgate.domain.errors import UpstreamError
from tollgate.domain.verdicts import judge

Json = dict[str, Any]

ADVICE = {
    "bad_key": "Set a valid key for the upstream; `tollgate doctor` says which variable.",
    "no_balance": "Top up the account at the upstream; the pause lifts by itself within a minute.",
    "account": "The upstream has locked or closed the account: ask its support.",
    "plan": "The upstream's plan does not cover this: renew or change it, or take another model.",
    "bad_request": "Correct the request as the message says, and submit it again.",
    "model_unavailable": "Take another model (`tollgate models list`), or correct its route in models.toml.",
    "not_permitted": "The upstream's key has no right to this: ask for it there, or use another key.",
    "prompt_too_long": "Shorten the prompt, or take a model with a longer context.",
    "blocked": "The upstream's content filter refused it: reword the prompt.",
    "rate_limited": "The upstream was too busy for too long: submit it again later, or give it more time (expires_at).",
    "overloaded": "The upstream was overloaded for too long: submit it again later, or take another model.",
    "daily_limit": "The upstream's limit for today is reached: submit it again tomorrow.",
    "plan_limit": "The plan's limit is reached: submit it again after the time in the message.",
    "server_error": "The upstream failed: submit it again. It may have billed the attempts marked uncertain.",
    "no_answer": "No answer came: submit it again. The upstream may have billed the attempts marked uncertain.",
    "unreachable": "The upstream could not be reached: `tollgate doctor` checks its address and the network.",
}
"""By the reason of `tollgate.domain.verdicts`."""
BY_STATE = {
    "cancelled": "It was cancelled. Submit it again if it is wanted.",
    "expired": "It was not begun before expires_at. Is a worker running? `tollgate doctor` says.",
}


def answer_of(task: Json) -> str:
    """The text of the answer, its tool calls as JSON, or ""."""
    result = task.get("result")
    choices = result.get("choices") if isinstance(result, dict) else None
    if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
        return ""
    message = choices[0].get("message")
    if not isinstance(message, dict):
        return ""
    content, calls = message.get("content"), message.get("tool_calls")
    text = content if isinstance(content, str) else "" if content is None else _json(content)
    return text or (_json(calls) if calls else "")


def error_of(task: Json) -> str:
    """ "1301: the message", or "" without an error."""
    error = task.get("error")
    if not isinstance(error, dict):
        return ""
    return ": ".join(str(part) for part in (error.get("code"), error.get("message")) if part)


def advice_of(task: Json) -> str:
    """What to do about a failed task, or ""."""
    state, error = task.get("state"), task.get("error")
    if state in BY_STATE:
        return BY_STATE[state]
    if state != "failed" or not isinstance(error, dict):
        return ""
    last = (task.get("attempts") or [{}])[-1]
    verdict = judge(UpstreamError("", code=error.get("code"), http_status=last.get("http_status"), kind="timeout"))
    return ADVICE.get(verdict.reason, "")


def tokens_of(task: Json) -> str:
    """ "12+34" prompt and completion tokens, or "-"."""
    usage = task.get("usage")
    if not usage:
        return "-"
    return f"{usage.get('prompt_tokens', 0)}+{usage.get('completion_tokens', 0)}"


def engine_of(task: Json) -> str:
    """ "1.234 s" of a local engine's time, all attempts together, or ""."""
    seconds = sum(one.get("engine_seconds") or 0 for one in task.get("attempts") or ())
    return f"{seconds:,.3f} s of its time" if seconds else ""


def name_of(task: Json) -> str:
    """What its owner calls it."""
    return str(task.get("custom_id") or task.get("request_id") or "")


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)
