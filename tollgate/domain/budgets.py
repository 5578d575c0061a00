"""What a project or a key may spend in a day, a month or in all, in money and in tokens; and how many of its tasks
may be open at once. Pure.

A purchase is reserved at its most before it is made, and the reservation becomes what it cost when it is
settled. What may have been billed without an answer counts against the limit until a bill says otherwise.
Amounts are nano-units of the installation's currency, and tokens. A task reserves itself while it is open, and is
never spent: so the tasks in flight are a budget like the others, which never begins anew.
"""

from __future__ import annotations

import operator
from dataclasses import dataclass, fields
from datetime import date, timedelta
from enum import StrEnum
from uuid import UUID

from tollgate.domain.errors import BudgetExceededError, RateLimitedError
from tollgate.domain.money import format_nano
from tollgate.domain.settling import Bill
from tollgate.domain.states import AttemptOutcome
from tollgate.domain.values import value

EPOCH = date(1970, 1, 1)
"""Start of the one period of a budget in total, or of tasks in flight."""
COST_PATTERN = r"^[0-9]{1,9}(\.[0-9]{1,9})?$"
"""A limit in money, as people write it: exact in nano-units, and far from what a column holds."""
MAX_LIMIT_TOKENS = 10**15
MAX_LIMIT_TASKS = 10**9
RETRY_IN_FLIGHT_S = 2.0
"""Where tasks in flight are limited: when some will have ended nobody knows, and to ask again costs little."""


class Period(StrEnum):
    """How often a budget begins anew. Days and months are UTC."""

    DAY = "day"
    MONTH = "month"
    TOTAL = "total"
    IN_FLIGHT = "in_flight"
    """Never, as a total; and what it limits are open tasks, nothing else."""

    @property
    def endless(self) -> bool:
        return self in (Period.TOTAL, Period.IN_FLIGHT)

    def starts_on(self, day: date) -> date:
        """First day of the period that holds `day`."""
        if self is Period.DAY:
            return day
        return EPOCH if self.endless else day.replace(day=1)

    def resets_on(self, day: date) -> date | None:
        """First day of the period after the one that holds `day`; None: there is none."""
        if self.endless:
            return None
        start = self.starts_on(day)
        # No month is longer than 31 days, and two are longer than 31.
        return self.starts_on(start + timedelta(days=1 if self is Period.DAY else 31))


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """A limit on what a project (`key_id` None) or one of its keys may use; None: not limited."""

    id: UUID
    project_id: UUID
    key_id: str | None
    period: Period
    limit_nano: int | None
    limit_tokens: int | None
    limit_tasks: int | None = None
    """Open at once; of tasks in flight only."""
    batch_id: UUID | None = None
    """Of this batch alone: its max_cost."""

    def covers(self, key_id: str, batch_id: UUID | None = None) -> bool:
        """Whether a task of this key and batch of its project counts in it."""
        return self.key_id in (None, key_id) and self.batch_id in (None, batch_id)


@value
class Amounts:
    """What stands in a period of a budget, or a change of it; the fields are its columns."""

    reserved_nano: int = 0
    reserved_tokens: int = 0
    reserved_tasks: int = 0
    """Open ones."""
    spent_nano: int = 0
    spent_tokens: int = 0
    uncertain_nano: int = 0
    """Of attempts that may have been billed."""
    uncertain_tokens: int = 0

    def __add__(self, other: Amounts) -> Amounts:
        return Amounts(**dict(zip(AMOUNTS, map(operator.add, VALUES(self), VALUES(other)), strict=True)))

    def __sub__(self, other: Amounts) -> Amounts:
        return Amounts(**dict(zip(AMOUNTS, map(operator.sub, VALUES(self), VALUES(other)), strict=True)))

    @property
    def nano(self) -> int:
        """All that counts against a limit in money."""
        return self.reserved_nano + self.spent_nano + self.uncertain_nano

    @property
    def tokens(self) -> int:
        """All that counts against a limit in tokens."""
        return self.reserved_tokens + self.spent_tokens + self.uncertain_tokens


AMOUNTS = tuple(f.name for f in fields(Amounts))
VALUES = operator.attrgetter(*AMOUNTS)
"""Of Amounts, in the order of AMOUNTS."""
NOTHING = Amounts()


def charged(outcome: AttemptOutcome, bill: Bill) -> Amounts:
    """What an attempt counts for: nothing while it is open, for its reservation stands."""
    if outcome in (AttemptOutcome.OPEN, AttemptOutcome.ABANDONED):
        return NOTHING
    return Amounts(
        spent_nano=bill.cost_nano or 0,
        spent_tokens=(bill.prompt_tokens or 0) + (bill.completion_tokens or 0),
        uncertain_nano=bill.possible_cost_nano or 0,
        uncertain_tokens=bill.possible_tokens or 0,
    )


def fits(budget: Budget, stands: Amounts, *, asked: Amounts) -> bool:
    """Whether `asked` may be reserved beside what stands. What asks for nothing may always: a free model is not
    refused because of what others cost."""
    return (
        _has_room(budget.limit_nano, stands.nano, asked.nano)
        and _has_room(budget.limit_tokens, stands.tokens, asked.tokens)
        and _has_room(budget.limit_tasks, stands.reserved_tasks, asked.reserved_tasks)
    )


def _has_room(limit: int | None, stands: int, asked: int) -> bool:
    return limit is None or asked == 0 or stands + asked <= limit


def told(budget: Budget) -> str:
    """ "this project's budget for the month"."""
    if budget.batch_id is not None:
        return "this batch's max_cost"
    of = "this project" if budget.key_id is None else "this key"
    if budget.limit_tasks is not None:
        return f"{of}'s limit of {budget.limit_tasks} tasks in flight"
    return f"{of}'s budget" + ("" if budget.period is Period.TOTAL else f" for the {budget.period}")


def refusal(budget: Budget, stands: Amounts, *, asked: Amounts) -> BudgetExceededError | RateLimitedError:
    """The error for a submission that reserves `asked` where `stands` was there before."""
    if budget.limit_tasks is not None:
        return _too_many(budget, stands, asked=asked.reserved_tasks, limit=budget.limit_tasks)
    left = remaining(budget, stands)
    wants = {"cost": format_nano(asked.nano), "tokens": asked.tokens}
    parts = [f"{kind} left {left[kind]}, wanted up to {wants[kind]}" for kind in left]
    message = (
        f"{told(budget)} does not have room: {'; '.join(parts)}. Lower max_tokens, send less at once, or have it raised"
    )
    return BudgetExceededError(message, budget_id=str(budget.id), left=left)


def _too_many(budget: Budget, stands: Amounts, *, asked: int, limit: int) -> RateLimitedError:
    left, fits_once = max(0, limit - stands.reserved_tasks), asked <= limit
    what = f"{left} left, {asked} submitted"
    what += ". Send it again when some have ended" if fits_once else " at once, which never fits. Send fewer at once"
    return RateLimitedError(
        f"{told(budget)} does not have room: {what}, or have it raised",
        limit="max_in_flight",
        allowed=limit,
        left=left,
        retry_after_s=RETRY_IN_FLIGHT_S if fits_once else None,
        of_key=budget.key_id is not None,
    )


def unpriced(model: str) -> BudgetExceededError:
    """The error for a model without a price where money is limited."""
    message = (
        f"model {model!r} has no price, and a budget in money covers it: write one into prices.toml, 0 if it is free"
    )
    return BudgetExceededError(message, budget_id=None, left={})


def remaining(budget: Budget, stands: Amounts) -> dict[str, str | int]:
    """What is left of each limit: "cost" a decimal string, "tokens" and "tasks" counts; never below 0."""
    left: dict[str, str | int] = {}
    if budget.limit_nano is not None:
        left["cost"] = format_nano(max(0, budget.limit_nano - stands.nano))
    if budget.limit_tokens is not None:
        left["tokens"] = max(0, budget.limit_tokens - stands.tokens)
    if budget.limit_tasks is not None:
        left["tasks"] = max(0, budget.limit_tasks - stands.reserved_tasks)
    return left
