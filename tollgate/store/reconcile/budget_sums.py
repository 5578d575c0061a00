"""Each period of each budget against the tasks that name it: reserved by the open ones, spent by their attempts.

Only tasks that name a period count in it (`store.reservations`). A removed budget has no rows, and is not missed.
"""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import sqlalchemy as sa

from tollgate.domain.budgets import Amounts
from tollgate.store.database import ReadConnection, dialect_of
from tollgate.store.reconcile.checks import COUNTED, TASK_IS_OPEN, Check, count_of
from tollgate.store.schema import attempts, budget_periods, budgets, projects, tasks

AMOUNTS = tuple(field.name for field in fields(Amounts))
HELD = {
    "reserved_nano": tasks.c.reserved_nano,
    "reserved_tokens": tasks.c.reserved_tokens,
    "reserved_tasks": sa.literal_column("1", sa.BigInteger),
}
CHARGED = {
    "spent_nano": attempts.c.cost_nano,
    "spent_tokens": sa.func.coalesce(attempts.c.prompt_tokens, 0) + sa.func.coalesce(attempts.c.completion_tokens, 0),
    "uncertain_nano": attempts.c.possible_cost_nano,
    "uncertain_tokens": attempts.c.possible_tokens,
}
"""As `domain.budgets.charged`, of closed attempts."""


def differences(connection: ReadConnection) -> sa.Select[Any]:
    """Periods whose amounts are not what their tasks say; also such as have no row."""
    sides = sa.union_all(_standing(connection), _held(connection), _charged(connection)).subquery("sides")
    names = [f"{side}_{name}" for side in ("found", "expected") for name in AMOUNTS]
    sums = {name: sa.func.sum(sides.c[name]) for name in names}
    differing = (
        sa.select(sides.c.period, *(one.label(name) for name, one in sums.items()))
        .group_by(sides.c.period)
        .having(sa.or_(*(sums[f"found_{name}"] != sums[f"expected_{name}"] for name in AMOUNTS)))
        .subquery("periods")
    )
    # The join with `budgets` drops the periods of removed ones.
    return (
        sa.select(
            budgets.c.id.label("budget"),
            sa.func.substr(differing.c.period, 34).label("starts_on"),
            projects.c.name.label("project"),
            budgets.c.key_id.label("key"),
            *(differing.c[name] for name in names),
        )
        .join_from(differing, budgets, _hex(connection, budgets.c.id) == sa.func.substr(differing.c.period, 1, 32))
        .join(projects, projects.c.id == budgets.c.project_id)
    )


CHECK = Check(
    name="budgets",
    says="each period of a budget holds what its tasks reserve, cost and may have cost",
    differences=differences,
    population=count_of(budget_periods),
)


def _standing(connection: ReadConnection) -> sa.Select[Any]:
    budget_id, day = _hex(connection, budget_periods.c.budget_id), budget_periods.c.starts_on
    text = sa.type_coerce(day, sa.Text) if dialect_of(connection) == "sqlite" else sa.func.to_char(day, "YYYY-MM-DD")
    period = budget_id.concat("@").concat(text)
    return sa.select(period.label("period"), *_amounts("found", {n: budget_periods.c[n] for n in AMOUNTS}))


def _held(connection: ReadConnection) -> sa.Select[Any]:
    periods = _periods(connection)
    return (
        sa.select(periods.c.value.label("period"), *_amounts("expected", _totals(HELD)))
        .select_from(sa.join(tasks, periods, sa.true()))
        .where(TASK_IS_OPEN, tasks.c.charged_to.is_not(None))
        .group_by(periods.c.value)
    )


def _charged(connection: ReadConnection) -> sa.Select[Any]:
    periods = _periods(connection)
    source = sa.join(tasks, attempts, attempts.c.task_id == tasks.c.id).join(periods, sa.true())
    return (
        sa.select(periods.c.value.label("period"), *_amounts("expected", _totals(CHARGED)))
        .select_from(source)
        .where(COUNTED, tasks.c.charged_to.is_not(None))
        .group_by(periods.c.value)
    )


def _totals(amounts: dict[str, Any]) -> dict[str, Any]:
    return {name: sa.func.coalesce(sa.func.sum(one), 0) for name, one in amounts.items()}


def _amounts(side: str, given: dict[str, Any]) -> list[sa.Label[int]]:
    zero = sa.literal_column("0", sa.BigInteger)
    both = {f"{one}_{name}": zero for one in ("found", "expected") for name in AMOUNTS}
    both |= {f"{side}_{name}": column for name, column in given.items()}
    return [column.label(name) for name, column in both.items()]


def _periods(connection: ReadConnection) -> Any:
    """A row for each period that `tasks.charged_to` names, as its text: whatever stands there, no cast can fail."""
    text = tasks.c.charged_to
    if dialect_of(connection) == "sqlite":
        array = sa.literal('["').concat(sa.func.replace(text, ",", '","')).concat('"]')
        return sa.func.json_each(array).table_valued("value", name="periods")
    parts = sa.func.unnest(sa.func.string_to_array(text, ","))
    return parts.table_valued("value", name="periods").render_derived()


def _hex(connection: ReadConnection, column: Any) -> Any:
    """An id as it stands in `tasks.charged_to`."""
    if dialect_of(connection) == "sqlite":
        return sa.type_coerce(column, sa.Text)
    return sa.func.replace(sa.cast(column, sa.Text), "-", "")
