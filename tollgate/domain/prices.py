"""Prices and what they make of a usage. Exact integers and fractions, rounded once, at the end.

A price is valid from a moment on, for one model at one upstream, in tiers by the length of prompt
and completion. Where prices come from: `tollgate.domain.price_file`.
"""

from __future__ import annotations

import hashlib
import json
from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from datetime import datetime, timedelta
from fractions import Fraction

from tollgate.domain.usage import TokenUsage

PRICED_TOKENS = 1_000_000
"""Prices are told for this many tokens."""
DEFAULT_BATCH_FACTOR = Fraction(1, 2)
"""ZhipuAI's and OpenAI's batches cost half of the list price."""


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

    `id` names this very version: it ends in a hash of the content, so a correction under the same
    date has another id. Raises ValueError without tiers, or for a time that is not UTC.
    """

    upstream: str
    model: str
    valid_from: datetime
    currency: str
    tiers: tuple[Tier, ...]
    batch_factor: Fraction = DEFAULT_BATCH_FACTOR
    id: str = field(init=False, compare=False)

    def __post_init__(self) -> None:
        if not self.tiers:
            raise ValueError("a price needs at least one tier")
        if self.valid_from.utcoffset() != timedelta(0):
            raise ValueError("valid_from must be an aware time in UTC")
        digest = hashlib.sha256(price_to_json(self).encode()).hexdigest()[:8]
        day = self.valid_from.date().isoformat()
        object.__setattr__(self, "id", f"{self.upstream}/{self.model}@{day}#{digest}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Charge:
    """The cost of one attempt, and the tier it was billed by.

    `estimated`: the tokens were estimated, or only their total is known and it does not fix the cost.
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
    tier = _tier(price, prompt_tokens=usage.prompt_tokens, completion_tokens=usage.completion_tokens)
    if usage.split_known:
        fresh = usage.prompt_tokens - usage.cached_tokens
        amount = fresh * tier.input_nano + usage.cached_tokens * tier.cached_rate_nano
        amount += usage.completion_tokens * tier.output_nano
        exact = True
    else:
        amount = usage.total_tokens * max(tier.input_nano, tier.output_nano)
        exact = _uniform(price)
    cost_nano = _rounded(amount, price=price, batch=batch)
    return Charge(cost_nano=cost_nano, tier=tier.name, estimated=usage.estimated or not exact)


def worst_case_nano(price: Price, *, prompt_tokens: int, completion_tokens: int, batch: bool = False) -> int:
    """The most that up to so many tokens can cost, in nano-units; what a budget reserves.

    A shorter usage may cost more than a longer one where an early tier is the dearer, so every
    corner of a tier within reach is tried. Nothing counts as cached, unless caching costs more.
    """
    prompts = _corners([(t.min_prompt_tokens, t.max_prompt_tokens) for t in price.tiers], prompt_tokens)
    completions = _corners([(t.min_completion_tokens, t.max_completion_tokens) for t in price.tiers], completion_tokens)
    highest = max(_dearest(price, prompt, completion) for prompt in prompts for completion in completions)
    return _rounded(highest, price=price, batch=batch)


def _corners(bounds: list[tuple[int, int | None]], limit: int) -> set[int]:
    """`limit`, and the last count before each edge of a tier that is under it."""
    ends = {edge - 1 for pair in bounds for edge in pair if edge}
    return {limit, *(end for end in ends if end < limit)}


def _dearest(price: Price, prompt_tokens: int, completion_tokens: int) -> int:
    tier = _tier(price, prompt_tokens=prompt_tokens, completion_tokens=completion_tokens)
    input_nano = max(tier.input_nano, tier.cached_rate_nano)
    return prompt_tokens * input_nano + completion_tokens * tier.output_nano


def _tier(price: Price, *, prompt_tokens: int, completion_tokens: int) -> Tier:
    for tier in price.tiers:
        if tier.fits(prompt_tokens=prompt_tokens, completion_tokens=completion_tokens):
            return tier
    return price.tiers[-1]


def _uniform(price: Price) -> bool:
    return all(tier.uniform and tier.input_nano == price.tiers[0].input_nano for tier in price.tiers)


def _rounded(amount: int, *, price: Price, batch: bool) -> int:
    factor = price.batch_factor if batch else Fraction(1)
    return round(Fraction(amount, PRICED_TOKENS) * factor)  # Fraction rounds half-even


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
    content = {
        "upstream": price.upstream,
        "model": price.model,
        "valid_from": price.valid_from.isoformat(),
        "currency": price.currency,
        "tiers": [asdict(tier) for tier in price.tiers],
        "batch_factor": str(price.batch_factor),
    }
    return json.dumps(content, sort_keys=True, separators=(",", ":"))


def price_from_json(text: str) -> Price:
    """The price that `price_to_json` wrote. Raises ValueError for any other text."""
    try:
        content = json.loads(text)
        content["valid_from"] = datetime.fromisoformat(content["valid_from"])
        content["tiers"] = tuple(Tier(**tier) for tier in content["tiers"])
        content["batch_factor"] = Fraction(content["batch_factor"])
        return Price(**content)
    except (KeyError, TypeError, AttributeError, ZeroDivisionError) as error:
        raise ValueError("not a price in JSON") from error
