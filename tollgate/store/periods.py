"""The rows of `budget_periods`: what is reserved, spent and uncertain in a day, a month or in all.

Rows are opened before any is locked, and locked in the order of their key: so nobody waits for another in a ring.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import fields
from datetime import date
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.sql.dml import ReturningUpdate

from tollgate.domain.budgets import AMOUNTS, NOTHING, VALUES, Amounts, Budget, Period
from tollgate.store import rows
from tollgate.store.database import ReadConnection, WriteConnection
from tollgate.store.schema import budget_periods, budgets

DEFINITION = tuple(f.name for f in fields(Budget))
PeriodKey = tuple[UUID, date]
"""A budget and the first day of one of its periods."""
KEYS = rows.Given.of(budget_periods, "budget_id", "starts_on")
CHANGES = rows.Given.of(budget_periods, "budget_id", "starts_on", *AMOUNTS, name="changes")
BUDGET_IDS = rows.Given.of(budgets, "id")
Standing = tuple[Budget, Amounts]


def budget_of(row: Any) -> Budget:
    """Of a row that has the columns of DEFINITION."""
    return Budget(**{name: getattr(row, name) for name in DEFINITION if name != "period"}, period=Period(row.period))


async def begin(connection: WriteConnection, missing: Collection[PeriodKey]) -> None:
    """Rows for the periods that begin; none for a budget that was removed meanwhile."""
    if missing:
        kept = await _hold(connection, {budget_id for budget_id, _ in missing})
        begun = sorted(key for key in missing if key[0] in kept)
        await rows.execute(connection, _beginning, KEYS, begun)


def _beginning(dialect: str) -> rows.Statement:
    return KEYS.insert(dialect, budget_periods).on_conflict_do_nothing()


async def lock(connection: WriteConnection, keys: Collection[PeriodKey]) -> dict[PeriodKey, Standing]:
    """As `read`, and theirs alone until the transaction ends."""
    return _standing((await rows.execute(connection, _locking, KEYS, sorted(keys))).all())


async def read(connection: ReadConnection, keys: Collection[PeriodKey]) -> dict[PeriodKey, Standing]:
    """What stands in those of the periods that there are; a removed budget's are gone."""
    return _standing((await rows.execute(connection, _reading, KEYS, sorted(keys))).all())


def _reading(dialect: str) -> sa.Select[Any]:
    given = KEYS.table(dialect)
    return (
        sa.select(budget_periods, *(budgets.c[name] for name in DEFINITION))
        .join(budgets, budgets.c.id == budget_periods.c.budget_id)
        .join(given, _is(given))
        .order_by(budget_periods.c.budget_id, budget_periods.c.starts_on)
    )


def _locking(dialect: str) -> sa.Select[Any]:
    return _reading(dialect).with_for_update(of=budget_periods)


def _standing(found: Iterable[Any]) -> dict[PeriodKey, Standing]:
    return {
        (row.budget_id, row.starts_on): (budget_of(row), Amounts(**{name: getattr(row, name) for name in AMOUNTS}))
        for row in found
    }


def adding(changes: Mapping[PeriodKey, Amounts]) -> rows.Step:
    """To rows that are locked."""
    return rows.Step(_adding, CHANGES, values_of(changes))


def values_of(changes: Mapping[PeriodKey, Amounts]) -> list[tuple[Any, ...]]:
    """For CHANGES, of those that change anything, in their order."""
    return [(*key, *VALUES(changes[key])) for key in sorted(changes) if changes[key] != NOTHING]


def _adding(dialect: str) -> rows.Statement:
    return _adding_of(CHANGES.table(dialect))


def _adding_of(given: sa.Subquery) -> sa.Update:
    sums = {name: budget_periods.c[name] + given.c[name] for name in AMOUNTS}
    return sa.update(budget_periods).where(_is(given)).values(sums)


def adding_with_room(dialect: str, *conditions: sa.ColumnElement[bool]) -> ReturningUpdate[UUID]:
    """PostgreSQL's: CHANGES are added to those rows that have room for them, which are locked once `conditions` hold.

    For limits in money and tokens."""
    given = CHANGES.table(dialect)
    locked = (
        sa.select(budget_periods.c.budget_id, budget_periods.c.starts_on)
        .join(given, _is(given))
        .where(*conditions)
        .order_by(budget_periods.c.budget_id, budget_periods.c.starts_on)
        .with_for_update(of=budget_periods)
        .cte("locked")
    )
    return (
        _adding_of(given)
        .where(
            budget_periods.c.budget_id == locked.c.budget_id,
            budget_periods.c.starts_on == locked.c.starts_on,
            budgets.c.id == budget_periods.c.budget_id,
            *(_has_room(given, unit) for unit in ("nano", "tokens")),
        )
        .returning(budget_periods.c.budget_id)
    )


def _has_room(given: sa.Subquery, unit: str) -> sa.ColumnElement[bool]:
    """As `domain.budgets.fits`."""
    limit, asked = budgets.c[f"limit_{unit}"], given.c[f"reserved_{unit}"]
    stands = sum((budget_periods.c[f"{kind}_{unit}"] for kind in ("reserved", "spent", "uncertain")), start=asked)
    return sa.or_(limit.is_(None), asked == 0, stands <= limit)


async def _hold(connection: WriteConnection, budget_ids: Collection[UUID]) -> set[UUID]:
    """Those that are still there, and stay: a new period of a removed one would fail its whole transaction."""
    return set((await rows.execute(connection, _holding, BUDGET_IDS, [(i,) for i in sorted(budget_ids)])).scalars())


def _holding(dialect: str) -> rows.Statement:
    given = BUDGET_IDS.table(dialect)
    return (
        sa.select(budgets.c.id)
        .where(budgets.c.id.in_(sa.select(given.c.id)))
        .order_by(budgets.c.id)
        .with_for_update(read=True, key_share=True)
    )


def _is(given: sa.Subquery) -> sa.ColumnElement[bool]:
    same_budget = budget_periods.c.budget_id == given.c.budget_id
    return sa.and_(same_budget, budget_periods.c.starts_on == given.c.starts_on)
