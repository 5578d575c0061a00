"""The limits of keys: those per minute are columns of the key, that of tasks in flight is a budget of it."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from uuid import UUID

import sqlalchemy as sa

from tollgate.domain.budgets import Budget, Period
from tollgate.domain.errors import NotFoundError
from tollgate.domain.ids import new_id
from tollgate.store import budgets
from tollgate.store.database import ReadConnection, WriteConnection
from tollgate.store.schema import api_keys
from tollgate.store.schema import budgets as budgets_table

PER_MINUTE = ("requests_per_minute", "tokens_per_minute")
IN_FLIGHT = sa.and_(budgets_table.c.key_id == api_keys.c.id, budgets_table.c.period == Period.IN_FLIGHT)
"""For a join: the budget of a key's tasks in flight."""


async def change(connection: WriteConnection, key_id: str, changes: Mapping[str, int | None], *, now: datetime) -> None:
    """Set the limits that `changes` names, by their names in KeyLimits; None lifts one. Raises NotFoundError.

    A new limit of tasks in flight counts what is submitted from then on, as any new budget."""
    owner = await _project_of(connection, key_id)
    columns = {name: changes[name] for name in PER_MINUTE if name in changes}
    if columns:
        await connection.execute(sa.update(api_keys).where(api_keys.c.id == key_id).values(columns))
    if "max_in_flight" in changes:
        await _limit_in_flight(connection, key_id, owner, changes["max_in_flight"], now=now)


async def _limit_in_flight(
    connection: WriteConnection, key_id: str, project_id: UUID, most: int | None, *, now: datetime
) -> None:
    if most is not None:
        limit = Budget(
            id=new_id(),
            project_id=project_id,
            key_id=key_id,
            period=Period.IN_FLIGHT,
            limit_nano=None,
            limit_tokens=None,
            limit_tasks=most,
        )
        await budgets.put(connection, limit, now=now)
        return
    theirs = sa.and_(budgets_table.c.key_id == key_id, budgets_table.c.period == Period.IN_FLIGHT)
    found = (await connection.execute(sa.select(budgets_table.c.id).where(theirs))).scalar()
    if found is not None:
        await budgets.remove(connection, found)


async def _project_of(connection: ReadConnection, key_id: str) -> UUID:
    owner: UUID | None = (
        await connection.execute(sa.select(api_keys.c.project_id).where(api_keys.c.id == key_id))
    ).scalar()
    if owner is None:
        raise NotFoundError("key", key_id)
    return owner
