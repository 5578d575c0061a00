"""What a check is, and how its differences come out: how many there are, and the first of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from tollgate.domain.states import OPEN_STATES, AttemptOutcome
from tollgate.store.database import ReadConnection
from tollgate.store.schema import attempts, tasks

Value = str | int | bool | None
FOUND, EXPECTED = "found_", "expected_"
"""Columns that begin so are compared; all others say where."""

TASK_IS_OPEN = tasks.c.state.in_(sorted(OPEN_STATES))
COUNTED = attempts.c.outcome.not_in((AttemptOutcome.OPEN, AttemptOutcome.ABANDONED))
"""Attempts that are in the accounts (`domain.settling.contribution`, `domain.budgets.charged`)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """Something that holds at every moment."""

    name: str
    says: str
    """What holds, as a sentence."""
    differences: Callable[[ReadConnection], sa.Select[Any]]
    """The rows that break it; see FOUND."""
    population: sa.Select[int]
    """How many rows are looked at."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """One row that breaks a check."""

    where: Mapping[str, Value]
    found: Mapping[str, Value]
    expected: Mapping[str, Value]
    """By the same names as `found`, as far as there is one right value."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What came of a check."""

    check: Check
    checked: int
    differences: int
    first: Sequence[Difference]


async def find(connection: ReadConnection, check: Check, *, limit: int) -> Finding:
    """Run a check, best inside `snapshots.snapshot`; `limit` (1 or more) bounds `first` only."""
    differing = check.differences(connection).subquery("differing")
    where = [column for column in differing.c if not column.name.startswith((FOUND, EXPECTED))]
    statement = (
        sa.select(differing, sa.func.count().over().label("differences"))
        .order_by(*where)  # so that two runs show the same ones
        .limit(limit)
    )
    rows = (await connection.execute(statement)).all()
    checked = (await connection.execute(check.population)).scalar_one()
    total = rows[0].differences if rows else 0
    return Finding(check=check, checked=checked, differences=total, first=[_difference(row) for row in rows])


def count_of(table: sa.Table, *conditions: sa.ColumnElement[bool]) -> sa.Select[int]:
    """For `Check.population`."""
    return sa.select(sa.func.count()).select_from(table).where(*conditions)


def _difference(row: Any) -> Difference:
    """Of compared columns only those that differ."""
    values = {name: _plain(value) for name, value in row._mapping.items() if name != "differences"}
    found = {name.removeprefix(FOUND): value for name, value in values.items() if name.startswith(FOUND)}
    right = {name.removeprefix(EXPECTED): value for name, value in values.items() if name.startswith(EXPECTED)}
    same = {name for name in right if right[name] == found[name]}
    return Difference(
        where={name: value for name, value in values.items() if not name.startswith((FOUND, EXPECTED))},
        found={name: value for name, value in found.items() if name not in same},
        expected={name: value for name, value in right.items() if name not in same},
    )


def _plain(value: Any) -> Value:
    if isinstance(value, UUID):
        return str(value)
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat().replace("+00:00", "Z")
    # PostgreSQL's sum of bigints is a numeric.
    return int(value) if isinstance(value, Decimal) else value
