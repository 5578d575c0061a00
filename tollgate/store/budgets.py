"""Budgets as people set and read them; `reservations` fills them. One a project or key and period."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from uuid import UUID

import sqlalchemy as sa

from tollgate.domain.budgets import NOTHING, Amounts, Budget
from tollgate.domain.errors import NotFoundError
from tollgate.store import periods, rows
from tollgate.store.database import ReadConnection, WriteConnection
from tollgate.store.schema import api_keys, budget_periods, budgets, projects


@dataclass(frozen=True, slots=True, kw_only=True)
class Balance:
    """A budget and what stands in its current period."""

    budget: Budget
    project: str
    created_at: datetime
    stands: Amounts = NOTHING


async def put(connection: WriteConnection, budget: Budget, *, now: datetime) -> Budget:
    """Set the limits of a project's or a key's budget of a period; made if it is not there. What counts in a new one
    is what is submitted from then on. Returns it with the id it has. Raises NotFoundError for a key that is
    not the project's."""
    if budget.key_id is not None:
        await _require_key(connection, budget.key_id, project_id=budget.project_id)
    columns = (*periods.DEFINITION, "created_at")
    value = [*(getattr(budget, name) for name in periods.DEFINITION), now]
    insert = rows.insert(connection, budgets, columns, [value])
    of_key = budget.key_id is not None
    statement = insert.on_conflict_do_update(
        index_elements=["key_id" if of_key else "project_id", "period"],
        index_where=sa.text("key_id IS NOT NULL" if of_key else "key_id IS NULL AND batch_id IS NULL"),
        set_={name: insert.excluded[name] for name in ("limit_nano", "limit_tokens", "limit_tasks")},
    ).returning(budgets.c.id)
    return replace(budget, id=(await connection.execute(statement)).scalar_one())


async def _require_key(connection: ReadConnection, key_id: str, *, project_id: UUID) -> None:
    owner = sa.select(api_keys.c.project_id).where(api_keys.c.id == key_id)
    if (await connection.execute(owner)).scalar() != project_id:
        raise NotFoundError("key", key_id)


async def remove(connection: WriteConnection, budget_id: UUID) -> None:
    """With what stands in it. Raises NotFoundError."""
    # Locked first: a submission that begins one of its periods holds the budget, and is waited for.
    held = sa.select(budgets.c.id).where(budgets.c.id == budget_id).with_for_update()
    if (await connection.execute(held)).first() is None:
        raise NotFoundError("budget", str(budget_id))
    await connection.execute(sa.delete(budget_periods).where(budget_periods.c.budget_id == budget_id))
    await connection.execute(sa.delete(budgets).where(budgets.c.id == budget_id))


async def balance(connection: ReadConnection, budget_id: UUID, *, now: datetime) -> Balance:
    """One. Raises NotFoundError."""
    found = await _balances(connection, budgets.c.id == budget_id, now=now)
    if not found:
        raise NotFoundError("budget", str(budget_id))
    return found[0]


async def balances(connection: ReadConnection, *, now: datetime, project_id: UUID | None = None) -> Sequence[Balance]:
    """All, or a project's, in the order of their making, with their current periods. A batch's own is told with it."""
    theirs = sa.true() if project_id is None else budgets.c.project_id == project_id
    return await _balances(connection, sa.and_(theirs, budgets.c.batch_id.is_(None)), now=now)


async def _balances(connection: ReadConnection, which: sa.ColumnElement[bool], *, now: datetime) -> list[Balance]:
    statement = (
        sa.select(*(budgets.c[name] for name in periods.DEFINITION), budgets.c.created_at, projects.c.name)
        .join(projects, projects.c.id == budgets.c.project_id)
        .where(which)
        .order_by(budgets.c.created_at, budgets.c.id)
    )
    found = [(row, periods.budget_of(row)) for row in (await connection.execute(statement)).all()]
    today = now.astimezone(UTC).date()
    current = {budget.id: (budget.id, budget.period.starts_on(today)) for _, budget in found}
    stands = await periods.read(connection, current.values())
    return [
        Balance(
            budget=budget,
            project=row.name,
            created_at=row.created_at,
            stands=stands.get(current[budget.id], (budget, NOTHING))[1],
        )
        for row, budget in found
    ]
