"""How times, money and what attempts came to are told to clients, wherever they are told. Pure."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Protocol

from tollgate.domain.batches import Batch
from tollgate.domain.engine_rates import SECOND_US, EngineRate
from tollgate.domain.money import format_nano


class Purchase(Protocol):
    """What an attempt was billed; costs in nano-units."""

    @property
    def prompt_tokens(self) -> int | None: ...
    @property
    def cached_tokens(self) -> int | None: ...
    @property
    def completion_tokens(self) -> int | None: ...
    @property
    def cost_nano(self) -> int | None: ...
    @property
    def possible_cost_nano(self) -> int | None: ...


def moment(at: datetime | None) -> str | None:
    """ISO 8601 in UTC, with a Z."""
    return None if at is None else at.astimezone(UTC).isoformat().replace("+00:00", "Z")


def money(nano: int | None) -> str | None:
    """A decimal string."""
    return None if nano is None else format_nano(nano)


def seconds(microseconds: int | None) -> float | None:
    """A number, exact: no engine runs long enough to lose a microsecond."""
    return None if microseconds is None else microseconds / SECOND_US


def engine(rate: EngineRate | None) -> dict[str, Any] | None:
    """A price by the second of an engine's time; None: the price is by tokens."""
    if rate is None:
        return None
    return {
        "second": money(rate.second_nano),
        "tokens_per_second": rate.tokens_per_second,
        "alone_tokens_per_second": rate.alone_tokens_per_second,
    }


def bought(attempts: Sequence[Purchase], *, currency: str) -> dict[str, Any]:
    """What the attempts of a task came to together: its cost is their sum."""
    billed = [a for a in attempts if a.prompt_tokens is not None]
    priced = [a.cost_nano for a in billed if a.cost_nano is not None]
    possible = [a.possible_cost_nano for a in attempts if a.possible_cost_nano is not None]
    return {
        "usage": _usage(billed) if billed else None,
        "cost": money(sum(priced)) if priced else None,
        "possible_cost": money(sum(possible)) if possible else None,
        "unpriced": len(priced) < len(billed),
        "currency": currency,
    }


def _usage(billed: Sequence[Purchase]) -> dict[str, int]:
    prompt = sum(a.prompt_tokens or 0 for a in billed)
    completion = sum(a.completion_tokens or 0 for a in billed)
    return {
        "prompt_tokens": prompt,
        "cached_tokens": sum(a.cached_tokens or 0 for a in billed),
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
    }


def batch(one: Batch, *, currency: str) -> dict[str, Any]:
    """A batch in the gateway's own words. `counts` add up to `total`, but for lines that were not read yet."""
    sums = one.sums
    return {
        "id": str(one.id),
        "object": "batch",
        "name": one.name,
        "state": one.state,
        "paused": _pause(one),
        "counts": {
            "total": one.total,
            "invalid": one.invalid,
            "queued": max(0, one.open - one.running),
            "running": one.running,
            "succeeded": sums.tasks_succeeded,
            "failed": sums.tasks_failed - sums.tasks_cancelled - sums.tasks_expired,
            "cancelled": sums.tasks_cancelled,
            "expired": sums.tasks_expired,
        },
        "usage": {
            "prompt_tokens": sums.prompt_tokens,
            "cached_tokens": sums.cached_tokens,
            "completion_tokens": sums.completion_tokens,
            "total_tokens": sums.prompt_tokens + sums.completion_tokens,
            "engine_seconds": seconds(sums.engine_us),
        },
        "cost": money(sums.cost_nano),
        "possible_cost": money(sums.possible_cost_nano) if sums.possible_cost_nano else None,
        "unpriced": sums.attempts_unpriced,
        "max_cost": money(one.max_cost_nano),
        "currency": currency,
        "endpoint": one.endpoint or None,
        "via": one.via,
        "priority": one.priority,
        "strict": one.strict,
        "request_id": one.request_id,
        "input_file_id": str(one.input_file_id) if one.input_file_id else None,
        "output_file_id": str(one.output_file_id) if one.output_file_id else None,
        "error_file_id": str(one.error_file_id) if one.error_file_id else None,
        "metadata": None if one.metadata is None else json.loads(one.metadata),
        "callback_url": one.callback_url,
        "error": {"code": one.error_code, "message": one.error_message} if one.error_code else None,
        "created_at": moment(one.created_at),
        "in_progress_at": moment(one.in_progress_at),
        "cancelling_at": moment(one.cancelling_at),
        "ended_at": moment(one.ended_at),
        "expires_at": moment(one.expires_at),
    }


def _pause(one: Batch) -> dict[str, Any] | None:
    if one.paused_at is None:
        return None
    return {"at": moment(one.paused_at), "code": one.paused_code, "reason": one.paused_why}
