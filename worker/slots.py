"""How many calls a route may have in flight in this worker, and how many more that is now."""

from __future__ import annotations

import itertools
from collections import deque

from tollgate.domain.concurrency import LearnedLimit
from tollgate.domain.states import Priority

RESERVED = 10
"""Bulk never takes the last tenth of a route's slots: an interactive call finds one free."""
RATE_WINDOW_S = 10.0
DOWN_AFTER = 8
"""So many calls in a row that met an outage, and the route is down: the next would only wait for its turn to fail."""
DOWN_S = 10.0
"""So long nothing is sent there; then one call at a time, until one is answered."""


class Slots:
    """One route's. `limit` is learned from the upstream, or `known`; `ceiling`, this worker's share of the fleet's
    maximum, is never exceeded."""

    def __init__(self, ceiling: int, *, known: bool = False) -> None:
        self.ceiling = ceiling
        self.in_use = 0
        self._learned = LearnedLimit(value=ceiling) if known else LearnedLimit()
        self._settled: deque[float] = deque()
        self._outages = 0
        self._outage_at_s = float("-inf")

    @property
    def limit(self) -> int:
        return 1 if self._outages >= DOWN_AFTER else self._learned.limit(self.ceiling)

    def free(self, priority: Priority) -> int:
        reserved = 0 if priority is Priority.INTERACTIVE else -(-self.limit // RESERVED) if self.limit > 1 else 0
        return max(0, self.limit - reserved - self.in_use)

    def take(self, count: int) -> None:
        self.in_use += count

    def release(self, count: int = 1) -> None:
        self.in_use -= count

    def note_let_in(self, *, again: bool = False) -> bool:
        """The upstream took a call, which has its slot; whether the limit is higher now. `again`: it still runs."""
        before = self.limit
        self._learned = self._learned.let_in(in_flight=self.in_use, ceiling=self.ceiling, again=again)
        return self.limit > before

    def note_refused(self, now_s: float, *, started_at_s: float) -> bool:
        """It refused one for our rate; whether the limit is lower now. Times on the monotonic clock."""
        before = self.limit
        self._learned = self._learned.refused(
            now_s=now_s, started_at_s=started_at_s, in_flight=self.in_use, ceiling=self.ceiling
        )
        return self.limit < before

    def note_outage(self, now_s: float) -> bool:
        """A call met an outage, and its task has somewhere else to go; whether the route is down by it."""
        self._outages, self._outage_at_s = self._outages + 1, now_s
        return self._outages == DOWN_AFTER

    def note_answer(self) -> None:
        """Whatever it was, somebody is there."""
        self._outages = 0

    def down(self, now_s: float) -> bool:
        """Whether nothing is sent there now: nor while the one call that tries it again hangs."""
        return self._outages >= DOWN_AFTER and (now_s < self._outage_at_s + DOWN_S or self.in_use > 0)

    def note_settled(self, at_s: float) -> None:
        """For the announcer's window; `at_s` on the monotonic clock."""
        self._settled.append(at_s)
        self._forget(at_s)

    def settled_lately(self, now_s: float) -> int:
        """Calls that ended in the last RATE_WINDOW_S."""
        self._forget(now_s)
        return len(self._settled)

    def settled_within(self, seconds: float, now_s: float) -> int:
        """The same for a shorter time."""
        return sum(1 for _ in itertools.takewhile(lambda at_s: at_s >= now_s - seconds, reversed(self._settled)))

    def _forget(self, now_s: float) -> None:
        while self._settled and self._settled[0] < now_s - RATE_WINDOW_S:
            self._settled.popleft()
