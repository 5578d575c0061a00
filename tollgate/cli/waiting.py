"""Waits for tasks by asking for them again and again, and counts what has ended."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from decimal import Decimal

from tollgate.cli.client import WAIT_MAX_S, Gateway, Json
from tollgate.cli.exits import GatewayUnreachableError, RefusedError

ASKED_AT_ONCE = 150
"""Ids in one request: 37 characters each, and some proxies stop at 8 KB of URL."""
BETWEEN_ROUNDS_S = 0.2
"""The answer comes as soon as one task ends; a thousand that end in a second need no thousand answers."""
OUTAGE_S = 60.0
"""A gateway that restarts is waited for so long: the tasks live on without it."""


@dataclass(kw_only=True)
class Tally:
    """What has ended so far."""

    succeeded: int = 0
    failed: int = 0
    tokens: int = 0
    cost: Decimal = Decimal(0)
    possible_cost: Decimal = Decimal(0)
    unpriced: int = 0
    currency: str = ""
    started: float = field(default_factory=time.monotonic)

    @property
    def ended(self) -> int:
        return self.succeeded + self.failed

    @property
    def elapsed_s(self) -> float:
        return time.monotonic() - self.started

    def add(self, task: Json) -> None:
        """Count a task that has ended."""
        if task["status"] == "SUCCESS":
            self.succeeded += 1
        else:
            self.failed += 1
        self.tokens += (task.get("usage") or {}).get("total_tokens", 0)
        self.cost += Decimal(task.get("cost") or 0)
        self.possible_cost += Decimal(task.get("possible_cost") or 0)
        self.unpriced += bool(task.get("unpriced"))
        self.currency = task.get("currency") or self.currency


def until_ended(
    gateway: Gateway,
    ids: Sequence[str],
    *,
    deadline: float | None = None,
    sleep: Callable[[float], None] = time.sleep,
) -> Iterator[Json]:
    """Each task once, when it has ended. Stops at `deadline` (time.monotonic). Raises GatewayUnreachableError."""
    still_open = list(dict.fromkeys(ids))
    while still_open and not _over(deadline):
        began = time.monotonic()
        groups = [still_open[i : i + ASKED_AT_ONCE] for i in range(0, len(still_open), ASKED_AT_ONCE)]
        done: set[str] = set()
        for group in groups:
            found, missing = _ask(gateway, group, wait_s=_wait_s(deadline, len(groups)), sleep=sleep)
            done.update(missing)
            for task in found:
                if task["status"] != "PROCESSING":
                    done.add(task["id"])
                    yield task
        still_open = [task_id for task_id in still_open if task_id not in done]
        if still_open:
            sleep(max(0.0, BETWEEN_ROUNDS_S - (time.monotonic() - began)))


def _wait_s(deadline: float | None, groups: int) -> float:
    """Only a single group can be waited for in one request; with more, each gets a moment."""
    longest = WAIT_MAX_S / 3 if groups == 1 else 0.5 / groups
    return longest if deadline is None else max(0.0, min(longest, deadline - time.monotonic()))


def _over(deadline: float | None) -> bool:
    return deadline is not None and time.monotonic() >= deadline


def _ask(
    gateway: Gateway, ids: Sequence[str], *, wait_s: float, sleep: Callable[[float], None]
) -> tuple[list[Json], list[str]]:
    """Ask once; where the gateway or its database is away for a moment, again."""
    give_up = time.monotonic() + OUTAGE_S
    while True:
        try:
            return gateway.tasks(ids, wait_s=wait_s)
        except (GatewayUnreachableError, RefusedError) as error:
            passing = isinstance(error, GatewayUnreachableError) or error.status >= 500
            if not passing or time.monotonic() >= give_up:
                raise
            sleep(1.0)
