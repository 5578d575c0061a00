"""How many calls a route may have in flight, learned from what its upstream refuses: TCP's congestion control.

A new route starts small and doubles in each round trip (slow start, RFC 5681, 3.1). A refusal for our rate takes 15 %
off, once per round trip; from there it grows by one call per round trip (additive increase), up to the wall where it
was last refused. Far above that wall it knows as little as at the start, and doubles again: the wall has moved.

Why not start at the configured maximum: with 1,000 configured and 50 allowed that is 3,000 refusals in the first
moments; from START it is a dozen, and an upstream that takes 1,000 still has them within 4 s.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

START = 16
"""Calls of a route that nothing is known of."""
DECREASE = 0.85
FAR = 1.25
"""So many times the last wall without a refusal: it is not there any more."""
LEAST_PATIENCE, MOST_PATIENCE = 4, 32
"""Calls let in before a wall is tried that was just found where it was. Where the upstream allows 5, a try in each
round trip would be one call in six refused; one in 32 is 3 %."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LearnedLimit:
    """One route's, in one worker. A value: each call that is let in or refused gives the next one.

    `ceiling` is what is configured, this worker's share of it: the limit stays between 1 and that. `in_flight` is the
    route's calls here, the one spoken of among them."""

    value: float = START
    """The limit before it is rounded down and held under the ceiling."""
    wall: int = 0
    """The limit at the last refusal that lowered it; 0 before the first."""
    lowered_at_s: float = float("-inf")
    patience: int = 0
    """Calls to be let in after a refusal before the wall is tried again. Doubles each time that it stands where it
    was, and is nothing after a refusal below it, or of a call that was alone: such a refusal has another cause, and
    waiting cures none."""
    to_wait: int = 0
    """How many of them are still to come."""

    def limit(self, ceiling: int) -> int:
        """Calls that may be in flight."""
        return max(1, min(int(self.value), ceiling))

    @property
    def searching(self) -> bool:
        """No wall is near: it doubles."""
        return self.value > FAR * self.wall

    def let_in(self, *, in_flight: int, ceiling: int, again: bool = False) -> LearnedLimit:
        """After a call that the upstream took. It counts only while half of the limit is used, as in RFC 7661: a limit
        that nobody needs would grow without having been tried. `again`: the call counted before and runs on, which
        counts in a search only. There each round trip is to double the limit, and no call has ended yet."""
        if again and not self.searching:
            return self
        waited = replace(self, to_wait=self.to_wait - 1) if self.to_wait else self
        if 2 * in_flight < self.limit(ceiling) or self.value >= ceiling:
            return waited
        step = 1.0 if self.searching else 1 / self.value
        grown = min(self.value + step, ceiling)
        return waited if waited.to_wait and grown >= self.wall else replace(waited, value=grown)

    def refused(self, *, now_s: float, started_at_s: float, in_flight: int, ceiling: int) -> LearnedLimit:
        """After a refusal for our rate, of a call that started at `started_at_s`. The same value where it teaches
        nothing: the call is as old as the last lowering, or that one has not taken hold yet."""
        limit = self.limit(ceiling)
        if started_at_s <= self.lowered_at_s or in_flight > limit:
            return self
        stands = limit >= self.wall > 1
        patience = min(max(LEAST_PATIENCE, 2 * self.patience), MOST_PATIENCE) if stands else 0
        value = max(1.0, DECREASE * limit)
        return LearnedLimit(value=value, wall=limit, lowered_at_s=now_s, patience=patience, to_wait=patience)
