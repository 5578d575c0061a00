"""Requests and tokens per minute of a key: what counts, what still fits, and when. Pure.

Counted by the second: what a second has counts until it has been over for a minute. So no minute, wherever it begins,
has more than the limit, and who is refused waits at most a second too long.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from tollgate.domain.errors import RateLimitedError

WINDOW_S = 60
MAX_LIMIT = 10**9
Kind = Literal["requests", "tokens"]
Window = Mapping[int, int]
"""How much in which second: those that count."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyLimits:
    """Of one key; None: not limited."""

    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    max_in_flight: int | None = None
    """Tasks that are accepted and have not ended; kept as a budget."""

    def __bool__(self) -> bool:
        # Asked at each request: `dataclasses.astuple` copies deeply, and took 4 % of a gateway's CPU.
        return not (self.requests_per_minute is self.tokens_per_minute is self.max_in_flight is None)


NO_LIMITS = KeyLimits()


@dataclass(frozen=True, slots=True, kw_only=True)
class Rate:
    """A limit per minute, and how much of it a request asks for."""

    kind: Kind
    limit: int
    asked: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What a request asks of its key: all of it, or nothing is counted."""

    key_id: str
    rates: tuple[Rate, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """What came of it: `windows` are those of the rates, in their order, after it."""

    fits: bool
    now_s: float
    windows: tuple[Window, ...]


def wanted(limits: KeyLimits, *, key_id: str, tokens: int) -> Asked:
    """Of one request of so many tokens; without rates where there is no such limit."""
    rates = (
        Rate(kind="requests", limit=limits.requests_per_minute or 0, asked=1),
        Rate(kind="tokens", limit=limits.tokens_per_minute or 0, asked=tokens),
    )
    return Asked(key_id=key_id, rates=tuple(rate for rate in rates if rate.limit))


def take(asked: Asked, windows: Sequence[Window], *, now_s: float) -> Taken:
    """Count it in the windows of its rates, if it fits in each. What asks for nothing always does."""
    counting = tuple(_counting(window, now_s) for window in windows)
    pairs = list(zip(asked.rates, counting, strict=True))
    fits = all(rate.asked == 0 or used(window) + rate.asked <= rate.limit for rate, window in pairs)
    if fits:
        counting = tuple(_with(window, math.floor(now_s), rate.asked) for rate, window in pairs)
    return Taken(fits=fits, now_s=now_s, windows=counting)


def used(window: Window) -> int:
    return sum(window.values())


def left(rate: Rate, window: Window) -> int:
    """Never below 0: the limit may have been lowered."""
    return max(0, rate.limit - used(window))


def reset_s(window: Window, *, now_s: float) -> float:
    """Until nothing counts any more, if nothing comes."""
    return _over_s(max(window), now_s) if window else 0.0


def wait_s(rate: Rate, window: Window, *, now_s: float) -> float | None:
    """Until what was asked fits, if nothing comes before; None: it never does."""
    if rate.asked > rate.limit:
        return None
    excess = used(window) + rate.asked - rate.limit if rate.asked else 0
    if excess <= 0:
        return 0.0
    for second in sorted(window):
        excess -= window[second]
        if excess <= 0:
            break
    return _over_s(second, now_s)


def refusal(asked: Asked, taken: Taken) -> RateLimitedError:
    """For what did not fit: of several limits the one that keeps it out longest."""
    waits = [
        (math.inf if wait is None else wait, rate, left(rate, window))
        for rate, window in zip(asked.rates, taken.windows, strict=True)
        for wait in (wait_s(rate, window, now_s=taken.now_s),)
    ]
    wait, rate, remains = max(waits, key=lambda one: one[0])
    return RateLimitedError(
        _told(rate, remains, wait),
        limit=f"{rate.kind}_per_minute",
        allowed=rate.limit,
        left=remains,
        retry_after_s=None if wait == math.inf else wait,
    )


def _told(rate: Rate, remains: int, wait: float) -> str:
    limit = f"this key's limit of {rate.limit} {rate.kind} per minute"
    less = "Lower max_tokens, send less at once, or have it raised"
    if wait == math.inf:
        return f"the request is too large for {limit}: it asks for up to {rate.asked} {rate.kind}. {less}"
    again = f"Send it again in {math.ceil(wait)} s"
    if rate.kind == "requests":
        return f"{limit} is reached. {again}"
    return f"{limit} does not have room: {remains} left, wanted up to {rate.asked}. {again}"


def _counting(window: Window, now_s: float) -> dict[int, int]:
    return {second: amount for second, amount in window.items() if _over_s(second, now_s) > 0}


def _over_s(second: int, now_s: float) -> float:
    """Until what was counted in `second` counts no more."""
    return second + 1 + WINDOW_S - now_s


def _with(window: Window, second: int, amount: int) -> dict[int, int]:
    return {**window, second: window.get(second, 0) + amount} if amount else {**window}
