"""Which prompts go into the cache in a step, and how much of them. Pure.

A step takes at most a budget of prompt tokens, so that no decoding row waits for a long prompt. What can be finished
within it goes first, the urgent and the short before others: their first tokens come soonest. Half of the budget is
kept for the oldest of the urgent ones, or where there are none the oldest: a stream of short ones cannot starve it.
What is left goes to one long prompt. Urgent prompts that fill the budget step after step do hold up those that are not
urgent.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from worker.upstreams.local.rows import Row


@dataclass(frozen=True, slots=True, kw_only=True)
class Prefill:
    finished: Sequence[Row]
    """Whose prompts are in the cache after it."""
    long: Row | None
    """Whose prompt gets on by `long_tokens`, and is not finished."""
    long_tokens: int


def prefill(rows: Sequence[Row], *, budget: int) -> Prefill:
    """Of `rows`, which are prefilling."""
    by_turn = sorted(rows, key=lambda row: (not row.request.urgent, row.request.number))
    by_length = sorted(by_turn[1:], key=lambda row: (not row.request.urgent, row.missing))
    reserved = min(by_turn[0].missing, budget // 2) if by_turn else 0
    finished, left = _fitting(by_length, budget - reserved)
    more, left = _fitting([row for row in by_turn if row not in finished], left + reserved)
    finished += more
    long = next((row for row in by_turn if row not in finished), None) if left else None
    return Prefill(finished=finished, long=long, long_tokens=left if long else 0)


def _fitting(rows: Sequence[Row], budget: int) -> tuple[list[Row], int]:
    """The first of `rows` whose prompts fit, and what is left of the budget."""
    fitting: list[Row] = []
    for row in rows:
        if row.missing > budget:
            break
        fitting.append(row)
        budget -= row.missing
    return fitting, budget
