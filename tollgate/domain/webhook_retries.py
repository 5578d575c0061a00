"""When a delivery is tried again: after 5 s, then ever more seldom, for 24 hours in all. Pure."""

from __future__ import annotations

from datetime import datetime, timedelta

WAITS_S = (5, 30, 120, 600, 1_800, 3_600, 7_200, 14_400, 28_800)
"""After the first failed try, the second, and so on; the last for all that follow."""
TRIED_FOR = timedelta(hours=24)
"""From the first try to the last one."""
LONGEST_RETRY_AFTER_S = 14_400.0
"""A receiver is not trusted to put off what it is told for longer."""
_SPREAD = 0.2
"""What failed at one moment is not to come back at one."""


def next_try(
    *, tries: int, first_tried_at: datetime, now: datetime, retry_after_s: float | None, jitter: float
) -> datetime | None:
    """When to try again after the `tries`-th failed try of a round; None: that was the last one.

    `retry_after_s` is what the receiver asks for, `jitter` a random number in [0, 1)."""
    end = first_tried_at + TRIED_FOR
    if now >= end:
        return None
    wait_s = WAITS_S[min(max(tries, 1), len(WAITS_S)) - 1] * (1 + _SPREAD * jitter)
    asked_s = retry_after_s if retry_after_s is not None and retry_after_s > 0 else 0.0  # also for a NaN
    return min(now + timedelta(seconds=max(wait_s, min(asked_s, LONGEST_RETRY_AFTER_S))), end)
