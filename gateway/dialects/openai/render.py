"""A finished task on OpenAI's wire."""

from __future__ import annotations

from typing import Any

from gateway.dialects.zhipu_v4 import render
from tollgate.store.tasks import Task

REASONS = {"sensitive": "content_filter", "network_error": "stop"}
"""ZhipuAI's reasons of an end that OpenAI does not have."""


def completion(one: Task) -> dict[str, Any]:
    body = render.completion(one)
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
