"""What an attempt cost, or may have: by what the upstream told, and the price in force when it began. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol
from uuid import UUID

from tollgate.domain.prices import Price, PriceTable, charge, worst_case_nano
from tollgate.domain.retries import RetryPolicy
from tollgate.domain.routing import Catalog
from tollgate.domain.settling import Bill
from tollgate.domain.states import OnUncertain
from tollgate.domain.usage import TokenUsage, estimate_prompt_tokens
from tollgate.store.receipts import Receipt

BATCH = "batch"
"""The mode of attempts that an upstream's own batch bought, at the batch price."""


class Leased(Protocol):
    """What settling needs to know of a task: a worker's claim, or a dead worker's orphan."""

    @property
    def id(self) -> UUID: ...
    @property
    def fence(self) -> int: ...
    @property
    def attempt(self) -> int: ...
    @property
    def tries(self) -> int: ...
    @property
    def route(self) -> str: ...
    @property
    def retry_until(self) -> datetime: ...
    @property
    def on_uncertain(self) -> OnUncertain: ...
    @property
    def prompt_tokens_estimate(self) -> int: ...
    @property
    def max_tokens(self) -> int | None: ...
    @property
    def assumed_max_tokens(self) -> int: ...
    @property
    def attempt_started_at(self) -> datetime: ...
    @property
    def mode(self) -> str: ...
    @property
    def upstream_id(self) -> str | None: ...
    @property
    def unanswered(self) -> int: ...
    @property
    def refused_attempts(self) -> int: ...


@dataclass(slots=True, kw_only=True)
class Rules:
    """What an outcome is judged by. `prices` is replaced when new versions are published."""

    prices: PriceTable
    policy: RetryPolicy = field(default_factory=RetryPolicy)
    catalog: Catalog = field(default_factory=lambda: Catalog(upstreams={}, models={}))
    """What a model's fallbacks are."""

    def price_of(self, route: str, *, at: datetime) -> Price | None:
        """What was in force then."""
        upstream, _, model = route.partition("/")
        return self.prices.find(upstream, model, at=at)


def receipt(leased: Leased, upstream_id: str, *, credential: str, rules: Rules) -> Receipt:
    """The upstream took the call under this id; and what it may come to, should its answer never be fetched."""
    possible = possible_bill(leased, rules)
    return Receipt(
        task_id=leased.id,
        attempt=leased.attempt,
        upstream_id=upstream_id,
        credential=credential,
        price_id=possible.price_id,
        possible_cost_nano=possible.possible_cost_nano,
        possible_tokens=possible.possible_tokens,
    )


def bill(leased: Leased, usage: TokenUsage, rules: Rules) -> Bill:
    """What the upstream told, priced; without a price only counted."""
    price = rules.price_of(leased.route, at=leased.attempt_started_at)
    billed = charge(price, usage, batch=leased.mode == BATCH) if price else None
    return Bill(
        prompt_tokens=usage.prompt_tokens,
        cached_tokens=usage.cached_tokens,
        completion_tokens=usage.completion_tokens,
        engine_us=usage.engine_us or None,
        price_id=price.id if price else None,
        price_tier=billed.tier if billed else None,
        cost_nano=billed.cost_nano if billed else None,
        cost_estimated=billed.estimated if billed else usage.estimated,
    )


def possible_bill(leased: Leased, rules: Rules) -> Bill:
    """The most a call may come to; in tokens only, where it has no price."""
    completion = leased.assumed_max_tokens if leased.max_tokens is None else leased.max_tokens
    tokens = leased.prompt_tokens_estimate + completion
    price = rules.price_of(leased.route, at=leased.attempt_started_at)
    if price is None:
        return Bill(possible_tokens=tokens)
    possible = worst_case_nano(
        price,
        prompt_tokens=leased.prompt_tokens_estimate,
        completion_tokens=completion,
        batch=leased.mode == BATCH,
    )
    return Bill(price_id=price.id, possible_cost_nano=possible, possible_tokens=tokens)


def estimated_usage(leased: Leased, texts: Sequence[str]) -> TokenUsage:
    """Of what was written. A text counts the same as a prompt and as an answer."""
    return TokenUsage(
        prompt_tokens=leased.prompt_tokens_estimate,
        completion_tokens=estimate_prompt_tokens({"prompt": texts}),
        estimated=True,
    )
