"""Prices and what they make of a usage. Exact integers and fractions, rounded once, at the end.

A price is valid from a moment on, for one model at one upstream: in tiers by the length of prompt
and completion, or by the second of a local engine's time. Where prices come from: `tollgate.domain.price_file`.
"""

from __future__ import annotations

import hashlib
import json
from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from datetime import datetime, timedelta
from fractions import Fraction
from typing import Any

from tollgate.domain import engine_rates
from tollgate.domain.engine_rates import EngineRate
from tollgate.domain.usage import TokenUsage
from tollgate.domain.values import value

PRICED_TOKENS = 1_000_000
"""Prices are told for this many tokens."""
DEFAULT_BATCH_FACTOR = Fraction(1, 2)
"""ZhipuAI's and OpenAI's batches cost half of the list price."""
BY_THE_SECOND = "engine"
"""What a charge by the engine's time names as its tier."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tier:
    """One step of a price: nano-units per million tokens, for lengths within its bounds.

    Bounds are tokens, the lower inclusive, the upper exclusive (None: no bound).
    `cached_nano` None means that cached input costs as much as other input.
    """

    name: str
    min_prompt_tokens: int = 0
    max_prompt_tokens: int | None = None
    min_completion_tokens: int = 0
    max_completion_tokens: int | None = None
    input_nano: int
    output_nano: int
    cached_nano: int | None = None

    @property
    def cached_rate_nano(self) -> int:
        """Nano-units per million cached input tokens."""
        return self.input_nano if self.cached_nano is None else self.cached_nano

    @property
    def uniform(self) -> bool:
        """Whether every token costs the same here, so that a total alone gives the exact cost."""
        return self.input_nano == self.output_nano == self.cached_rate_nano

    def fits(self, *, prompt_tokens: int, completion_tokens: int) -> bool:
        """Whether a usage of these lengths falls into this tier."""
        # Price lists say "input < 32" in thousands. We read a thousand as 1000, not 1024: 31,999
        # tokens are below the bound and 32,000 are not. The bounds are data, so a list that means
        # 1024 can say 32768.
        prompt_end, completion_end = self.max_prompt_tokens, self.max_completion_tokens
        return (
            self.min_prompt_tokens <= prompt_tokens
            and (prompt_end is None or prompt_tokens < prompt_end)
            and self.min_completion_tokens <= completion_tokens
            and (completion_end is None or completion_tokens < completion_end)
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Price:
    """What `model` costs at `upstream` from `valid_from` (aware, UTC) until a later price begins.

    It has tiers, or an `engine`. `id` names this very version: it ends in a hash of the content, so a
    correction under the same date has another id. Raises ValueError with neither or both of them, or for
    a time that is not UTC.
    """

    upstream: str
    model: str
    valid_from: datetime
    currency: str
    tiers: tuple[Tier, ...] = ()
    engine: EngineRate | None = None
    batch_factor: Fraction = DEFAULT_BATCH_FACTOR
    id: str = field(init=False, compare=False)

    def __post_init__(self) -> None:
        if bool(self.tiers) == (self.engine is not None):
            raise ValueError("a price needs at least one tier, or else a rate of an engine")
        if self.valid_from.utcoffset() != timedelta(0):
            raise ValueError("valid_from must be an aware time in UTC")
        digest = hashlib.sha256(price_to_json(self).encode()).hexdigest()[:8]
        day = self.valid_from.date().isoformat()
        object.__setattr__(self, "id", f"{self.upstream}/{self.model}@{day}#{digest}")


@value
class Charge:
    """The cost of one attempt, and the tier it was billed by.

    `estimated`: the tokens were estimated, or only their total is known and it does not fix the cost; by
    the second, the engine's time is not known.
    """

    cost_nano: int
    tier: str
    estimated: bool


def charge(price: Price, usage: TokenUsage, *, batch: bool = False) -> Charge:
    """The cost of `usage` at `price`, in nano-units, rounded half-even once; `batch` takes its factor.

    The first tier that fits is billed, the last one if none fits. Where only a total is known, it
    is exact if all tokens cost the same in every tier; else all are billed at the dearer of input
    and output, and the charge is marked estimated.
    """
    if price.engine is not None:
        return _by_the_second(price, price.engine, usage, batch=batch)
    tier = tier_of(price, prompt_tokens=usage.prompt_tokens, completion_tokens=usage.completion_tokens)
    if usage.split_known:
        fresh = usage.prompt_tokens - usage.cached_tokens
        amount = fresh * tier.input_nano + usage.cached_tokens * tier.cached_rate_nano
        amount += usage.completion_tokens * tier.output_nano
        exact = True
    else:
        amount = usage.total_tokens * max(tier.input_nano, tier.output_nano)
        exact = _uniform(price)
    cost_nano = _rounded(Fraction(amount, PRICED_TOKENS), price=price, batch=batch)
    return Charge(cost_nano=cost_nano, tier=tier.name, estimated=usage.estimated or not exact)


def _by_the_second(price: Price, engine: EngineRate, usage: TokenUsage, *, batch: bool) -> Charge:
    """By its time, whatever is known of its tokens; without one by its tokens, as if the engine had been busy."""
    known = usage.engine_us > 0
    spent_s = engine_rates.seconds(usage.engine_us) if known else engine.busy_s(usage.total_tokens)
    cost_nano = _rounded(engine.cost_nano(spent_s), price=price, batch=batch)
    return Charge(cost_nano=cost_nano, tier=BY_THE_SECOND, estimated=not known)


def worst_case_nano(price: Price, *, prompt_tokens: int, completion_tokens: int, batch: bool = False) -> int:
    """The most that up to so many tokens can cost, in nano-units; what a budget reserves.

    A shorter usage may cost more than a longer one where an early tier is the dearer, so every
    corner of a tier within reach is tried. Nothing counts as cached, unless caching costs more. By the
    second it is what a request that runs alone would take, and never nothing unless a second is free.
    """
    if price.engine is not None:
        most_s = price.engine.most_s(prompt_tokens=prompt_tokens, completion_tokens=completion_tokens)
        most = _rounded(price.engine.cost_nano(most_s), price=price, batch=batch)
        return max(most, min(price.engine.second_nano, 1))
    prompts = _corners([(t.min_prompt_tokens, t.max_prompt_tokens) for t in price.tiers], prompt_tokens)
    completions = _corners([(t.min_completion_tokens, t.max_completion_tokens) for t in price.tiers], completion_tokens)
    highest = max(_dearest(price, prompt, completion) for prompt in prompts for completion in completions)
    return _rounded(Fraction(highest, PRICED_TOKENS), price=price, batch=batch)


def _corners(bounds: list[tuple[int, int | None]], limit: int) -> set[int]:
    """`limit`, and the last count before each edge of a tier that is under it."""
    ends = {edge - 1 for pair in bounds for edge in pair if edge}
    return {limit, *(end for end in ends if end < limit)}


def _dearest(price: Price, prompt_tokens: int, completion_tokens: int) -> int:
    tier = tier_of(price, prompt_tokens=prompt_tokens, completion_tokens=completion_tokens)
    input_nano = max(tier.input_nano, tier.cached_rate_nano)
    return prompt_tokens * input_nano + completion_tokens * tier.output_nano


def tier_of(price: Price, *, prompt_tokens: int, completion_tokens: int) -> Tier:
    """The first that fits, the last one if none does."""
    for tier in price.tiers:
        if tier.fits(prompt_tokens=prompt_tokens, completion_tokens=completion_tokens):
            return tier
    return price.tiers[-1]


def _uniform(price: Price) -> bool:
    return all(tier.uniform and tier.input_nano == price.tiers[0].input_nano for tier in price.tiers)


def _rounded(nano: Fraction, *, price: Price, batch: bool) -> int:
    return round(nano * price.batch_factor if batch else nano)  # Fraction rounds half-even


class PriceTable:
    """All prices, found by upstream, model and time: one look-up in a dict and one bisection."""

    __slots__ = ("_versions",)

    def __init__(self, prices: Iterable[Price]) -> None:
        by_route: dict[tuple[str, str], list[Price]] = {}
        for price in prices:
            by_route.setdefault((price.upstream, price.model), []).append(price)
        self._versions: dict[tuple[str, str], tuple[list[datetime], list[Price]]] = {}
        for route, versions in by_route.items():
            # The sort is stable: among equal valid_from, the one given last stands last and wins.
            ordered = sorted(versions, key=lambda price: price.valid_from)
            self._versions[route] = ([price.valid_from for price in ordered], ordered)

    def find(self, upstream: str, model: str, *, at: datetime) -> Price | None:
        """The price in force at `at` (aware), or None. Among equal valid_from the last given wins."""
        starts, versions = self._versions.get((upstream, model), ([], []))
        index = bisect_right(starts, at)
        return versions[index - 1] if index else None


def price_to_json(price: Price) -> str:
    """`price` as canonical JSON (sorted keys, no blanks): a database column, and the source of its id."""
    content: dict[str, Any] = {
        "upstream": price.upstream,
        "model": price.model,
        "valid_from": price.valid_from.isoformat(),
        "currency": price.currency,
        "tiers": [asdict(tier) for tier in price.tiers],
        "batch_factor": str(price.batch_factor),
    }
    if price.engine is not None:  # not a null: the ids of all other prices are as they were before there was one
        content["engine"] = asdict(price.engine)
    return json.dumps(content, sort_keys=True, separators=(",", ":"))


def price_from_json(text: str) -> Price:
    """The price that `price_to_json` wrote. Raises ValueError for any other text."""
    try:
        content = json.loads(text)
        content["valid_from"] = datetime.fromisoformat(content["valid_from"])
        content["tiers"] = tuple(Tier(**tier) for tier in content["tiers"])
        content["batch_factor"] = Fraction(content["batch_factor"])
        if "engine" in content:
            content["engine"] = EngineRate(**content["engine"])
        return Price(**content)
    except (KeyError, TypeError, AttributeError, ZeroDivisionError) as error:
        raise ValueError("not a price in JSON") from error
