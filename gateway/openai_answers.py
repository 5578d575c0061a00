"""The ends of tasks in OpenAI's words: answers, and what failed. Pure."""

from __future__ import annotations

from typing import Any

from gateway import answers
from gateway.answers import Answered
from gateway.ends import end_of

REASONS = {"sensitive": "content_filter", "network_error": "stop"}
"""ZhipuAI's reasons of an end that OpenAI does not have."""
TYPES = {400: "invalid_request_error", 403: "invalid_request_error", 429: "rate_limit_error"}
"""Of a failed task, by the status of its end; any other is a server_error."""


def completion(one: Answered) -> dict[str, Any]:
    body = answers.completion(one)
    body.pop("request_id")
    for index, choice in enumerate(body["choices"]):
        choice.setdefault("index", index)
        choice.setdefault("logprobs", None)
        choice["finish_reason"] = reason(choice["finish_reason"])
        choice["message"].setdefault("content", None)
        choice["message"].setdefault("refusal", None)
    return {**body, "object": "chat.completion"}


def reason(given: str) -> str:
    return REASONS.get(given, given)


def embeddings(one: Answered) -> dict[str, Any]:
    """The vectors as lists of numbers."""
    shown = answers.embeddings(one)
    shown["usage"].pop("completion_tokens")
    return shown


def failure(code: str | None, message: str) -> tuple[int, dict[str, dict[str, str | None]]]:
    """HTTP status and body of the answer of a call whose task failed."""
    status, shown = end_of(code)
    return status, problem(message, kind=TYPES.get(status, "server_error"), code=shown)


def problem(message: str, *, kind: str, code: str | None, param: str | None = None) -> dict[str, dict[str, str | None]]:
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}
