"""How times, money and what attempts came to are told to clients, wherever they are told. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Protocol

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
