"""The answers of finished tasks in ZhipuAI's words. The SDKs validate them: ids are strings, `finish_reason` a string,
`choices` and all three usage numbers are there; and a finished one reads the same every time. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Protocol
from uuid import UUID

import orjson

from tollgate.domain.retention import require_kept
from tollgate.domain.states import AttemptOutcome


class Bought(Protocol):
    """What is told of an attempt."""

    @property
    def outcome(self) -> AttemptOutcome | None: ...
    @property
    def prompt_tokens(self) -> int | None: ...
    @property
    def completion_tokens(self) -> int | None: ...


class Answered(Protocol):
    """A task that succeeded. `result` is the upstream's JSON text."""

    @property
    def id(self) -> UUID: ...
    @property
    def request_id(self) -> str | None: ...
    @property
    def model(self) -> str: ...
    @property
    def created_at(self) -> datetime: ...
    @property
    def result(self) -> str | None: ...
    @property
    def attempts(self) -> Sequence[Bought]: ...


def completion(one: Answered) -> dict[str, Any]:
    """The upstream's answer under our ids and the client's model name."""
    body: dict[str, Any] = orjson.loads(require_kept(one.result, task_id=one.id))
    body.pop("task_status", None)  # of an upstream that was submitted to and polled
    body |= {"id": str(one.id), "request_id": one.request_id or str(one.id), "model": one.model}
    body.setdefault("created", int(one.created_at.timestamp()))
    if not _complete(body.get("usage")):
        body["usage"] = _counted(one)
    for choice in body.get("choices", ()):
        reason = choice.get("finish_reason")
        choice["finish_reason"] = reason if reason and isinstance(reason, str) else "stop"
    return body


def embeddings(one: Answered) -> dict[str, Any]:
    """The vectors under the client's model name. The SDKs want all three usage numbers."""
    body: dict[str, Any] = orjson.loads(require_kept(one.result, task_id=one.id))
    usage = body.get("usage")
    told = {**usage} if isinstance(usage, dict) else {}
    if not isinstance(told.get("prompt_tokens"), int):
        told = _counted(one)
    told.setdefault("completion_tokens", 0)
    told.setdefault("total_tokens", told["prompt_tokens"])
    return {**body, "object": "list", "model": one.model, "usage": told}


def _complete(usage: Any) -> bool:
    return isinstance(usage, dict) and all(
        isinstance(usage.get(name), int) for name in ("prompt_tokens", "completion_tokens", "total_tokens")
    )


def _counted(one: Answered) -> dict[str, int]:
    """What the accounts hold, where the upstream told no usage or half of one."""
    bought = next((a for a in one.attempts if a.outcome is AttemptOutcome.SUCCEEDED), None)
    prompt = (bought.prompt_tokens if bought else None) or 0
    answered = (bought.completion_tokens if bought else None) or 0
    return {"prompt_tokens": prompt, "completion_tokens": answered, "total_tokens": prompt + answered}
