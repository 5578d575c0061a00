"""Limits of keys: asked before anything is stored, and told in the headers of whatever the answer is.

A key without limits has no meter and pays nothing. Requests are counted as they are submitted: also a repeat of a
known request_id, and one that a budget or the limit of tasks in flight then refuses; not what is refused as wrong, or
by these limits themselves.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from tollgate.broker.rates import Rates
from tollgate.coalescing import Coalescer
from tollgate.domain import rates
from tollgate.domain.errors import RateLimitedError, RequestError
from tollgate.domain.lanes import priority_of
from tollgate.domain.rates import Asked, Taken
from tollgate.domain.states import Priority
from tollgate.domain.tasks import Accepted, Key, NewTask

MAX_TOGETHER = 500
"""Requests that are asked for in one go."""


class Limiter:
    """What was asked for while the last answer was under way goes into the next question. Belongs to one event loop."""

    def __init__(self, counted: Rates) -> None:
        self._coalescer: Coalescer[Asked, Taken] = Coalescer(counted.take, max_weight=MAX_TOGETHER)

    async def take(self, asked: Asked) -> Taken:
        return await self._coalescer.submit(asked)

    async def drain(self) -> None:
        """Return when nothing is being asked."""
        await self._coalescer.drain()


class Meter:
    """Of one request: what it takes of its key's limits, and what there is left of them."""

    def __init__(self, key: Key, limiter: Limiter) -> None:
        self._key = key
        self._limiter = limiter
        self._asked: Asked | None = None
        self._taken: Taken | None = None
        self._in_flight_left: int | None = None

    async def take(self, submission: Sequence[NewTask]) -> None:
        """Before it is stored. Raises RateLimitedError."""
        self._asked = rates.wanted(self._key.limits, key_id=self._key.id, tokens=_tokens(submission))
        if not self._asked.rates:
            return
        self._taken = await self._limiter.take(self._asked)
        if not self._taken.fits:
            raise rates.refusal(self._asked, self._taken)

    def note(self, outcome: Sequence[Accepted] | RequestError) -> None:
        """What the store made of it."""
        if isinstance(outcome, RateLimitedError):
            self._in_flight_left = outcome.left if outcome.of_key else None
        elif not isinstance(outcome, RequestError):
            self._in_flight_left = next((one.in_flight_left for one in outcome), None)

    def headers(self) -> Iterator[tuple[str, str]]:
        """As OpenAI writes them. None before the limits were asked."""
        if self._asked is None:
            return
        if self._taken is not None:
            for rate, window in zip(self._asked.rates, self._taken.windows, strict=True):
                yield f"x-ratelimit-limit-{rate.kind}", str(rate.limit)
                yield f"x-ratelimit-remaining-{rate.kind}", str(rates.left(rate, window))
                yield f"x-ratelimit-reset-{rate.kind}", _told(rates.reset_s(window, now_s=self._taken.now_s))
        if self._key.limits.max_in_flight is not None:
            yield "x-ratelimit-limit-in-flight", str(self._key.limits.max_in_flight)
            if self._in_flight_left is not None:
                yield "x-ratelimit-remaining-in-flight", str(self._in_flight_left)


def _tokens(submission: Sequence[NewTask]) -> int:
    """Of its interactive tasks, at their most. Bulk is paced by what its routes settle."""
    return sum(task.most_tokens for task in submission if priority_of(task.lane) is Priority.INTERACTIVE)


def _told(seconds: float) -> str:
    """ "6m0s": whole seconds, rounded up."""
    minutes, rest = divmod(math.ceil(seconds), 60)
    return f"{minutes}m{rest}s" if minutes else f"{rest}s"
