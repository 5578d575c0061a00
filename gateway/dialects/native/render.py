"""A task as the native API shows it. Money as decimal strings, times as ISO 8601 UTC."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from typing import Any

import orjson

from tollgate.domain import shown
from tollgate.domain.budgets import remaining
from tollgate.domain.lanes import priority_of
from tollgate.domain.money import format_nano
from tollgate.domain.shown import bought
from tollgate.domain.states import AttemptOutcome
from tollgate.domain.tasks import Accepted, TaskRequest
from tollgate.store.budgets import Balance
from tollgate.store.tasks import Attempt, Task

time = shown.moment
money = shown.money


def _as_stored(text: str | None) -> orjson.Fragment | None:
    """JSON text that goes into the answer as it is."""
    return None if text is None else orjson.Fragment(text)


def accepted(one: Accepted, request: TaskRequest) -> dict[str, Any]:
    return {
        "id": str(one.id),
        "object": "task",
        "status": one.state.status,
        "state": one.state,
        "duplicate": one.duplicate,
        "custom_id": request.custom_id,
        "request_id": request.request_id,
    }


def task(
    one: Task,
    *,
    currency: str,
    with_result: bool = True,
    with_attempts: bool = True,
    waiting_reason: str | None = None,
) -> dict[str, Any]:
    """`waiting_reason`: why it cannot begin now, where it is queued and that is known."""
    upstream, _, upstream_model = (one.answered_by or "").partition("/")
    told: dict[str, Any] = {
        "id": str(one.id),
        "object": "task",
        "status": one.state.status,
        "state": one.state,
        "model": one.model,
        "upstream": upstream or None,
        "upstream_model": upstream_model or None,
        "endpoint": one.endpoint,
        "custom_id": one.custom_id,
        "request_id": one.request_id,
        "label": one.label,
        "metadata": _as_stored(one.metadata),
        "priority": priority_of(one.lane),
        "batch_id": str(one.batch_id) if one.batch_id else None,
        "line": one.line,
        "callback_url": one.callback_url,
        "created_at": time(one.created_at),
        "started_at": time(one.started_at),
        "ended_at": time(one.ended_at),
        "not_before": time(one.not_before),
        "expires_at": time(one.deadline),
        "cancel_requested_at": time(one.cancel_requested_at),
        "tries": one.tries,
        "waiting_reason": waiting_reason,
        "error": {"code": one.error_code, "message": one.error_message} if one.error_code else None,
        "erased": one.erased,
        "prompt_erased": one.prompt_erased,
    }
    if with_result:
        told["result"] = _as_stored(one.result)
    if with_attempts:
        told |= bought(one.attempts, currency=currency)
        told["attempts"] = [_attempt(a) for a in one.attempts]
    return told


def _attempt(one: Attempt) -> dict[str, Any]:
    failed = one.error_code is not None and one.outcome is not AttemptOutcome.SUCCEEDED
    return {
        "number": one.number,
        "upstream": one.upstream,
        "upstream_model": one.upstream_model,
        "mode": one.mode,
        "request_id": one.request_id,
        "upstream_id": one.upstream_id,
        "outcome": one.outcome,
        "tries": one.tries,
        "http_status": one.http_status,
        "error": {"code": one.error_code, "message": one.error_message} if failed else None,
        "prompt_tokens": one.prompt_tokens,
        "cached_tokens": one.cached_tokens,
        "completion_tokens": one.completion_tokens,
        "engine_seconds": shown.seconds(one.engine_us),
        "cost": money(one.cost_nano),
        "cost_estimated": one.cost_estimated,
        "possible_cost": money(one.possible_cost_nano),
        "price": one.price_id,
        "tier": one.price_tier,
        "started_at": time(one.started_at),
        "ended_at": time(one.ended_at),
    }


def counts(sums: Sequence[int]) -> dict[str, Any]:
    """A group of /usage; `sums` in the order of the store's USAGE_COUNTS."""
    (
        succeeded, failed, attempts, attempts_failed, uncertain, unpriced, estimated, prompt, cached, completion,
        engine_us, cost_nano, possible_cost_nano,
    ) = sums  # fmt: skip
    return {
        "tasks": succeeded + failed,
        "tasks_succeeded": succeeded,
        "tasks_failed": failed,
        "attempts": attempts,
        "attempts_failed": attempts_failed,
        "attempts_uncertain": uncertain,
        "attempts_unpriced": unpriced,
        "attempts_estimated": estimated,
        "prompt_tokens": prompt,
        "cached_tokens": cached,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "engine_seconds": shown.seconds(engine_us),
        "cost": format_nano(cost_nano),
        "possible_cost": format_nano(possible_cost_nano),
    }


def budget(one: Balance, *, currency: str, today: date) -> dict[str, Any]:
    """A budget and what stands in the period that holds `today`; one in total never resets."""
    limits, stands = one.budget, one.stands
    resets_on = limits.period.resets_on(today)
    return {
        "id": str(limits.id),
        "object": "budget",
        "project": one.project,
        "key": limits.key_id,
        "period": limits.period,
        "limit_cost": money(limits.limit_nano),
        "limit_tokens": limits.limit_tokens,
        "limit_tasks": limits.limit_tasks,
        "spent_cost": format_nano(stands.spent_nano),
        "spent_tokens": stands.spent_tokens,
        "reserved_cost": format_nano(stands.reserved_nano),
        "reserved_tokens": stands.reserved_tokens,
        "reserved_tasks": stands.reserved_tasks,
        "uncertain_cost": format_nano(stands.uncertain_nano),
        "uncertain_tokens": stands.uncertain_tokens,
        "left": remaining(limits, stands),
        "currency": currency,
        "created_at": time(one.created_at),
        "starts_on": None if limits.period.endless else limits.period.starts_on(today).isoformat(),
        "resets_at": None if resets_on is None else f"{resets_on.isoformat()}T00:00:00Z",
    }
