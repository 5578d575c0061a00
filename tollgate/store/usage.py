"""Usage and cost, read from the hourly roll-up only: the time it takes does not grow with the tasks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from tollgate.domain.settling import Counts
from tollgate.store.database import ReadConnection, dialect_of
from tollgate.store.schema import USAGE_COUNTS, projects, usage_hourly

DIMENSIONS = ("hour", "day", "month", "project", "key", "model", "upstream", "label")
FORMATS = {
    "hour": ("YYYY-MM-DD HH24:00", "%Y-%m-%d %H:00"),
    "day": ("YYYY-MM-DD", "%Y-%m-%d"),
    "month": ("YYYY-MM", "%Y-%m"),
}
"""Of a time in UTC, for PostgreSQL's to_char and SQLite's strftime: the same text."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageRow:
    """One group: its dimensions as text, in the order asked for, and its sums."""

    group: dict[str, str]
    counts: Counts


async def summarise(
    connection: ReadConnection,
    *,
    by: Sequence[str],
    project_id: UUID | None,
    since: datetime,
    until: datetime,
    key_id: str | None = None,
) -> list[UsageRow]:
    """Sums by the dimensions of `by` over [since, until), whole hours UTC; project None: all of them."""
    groups = [_dimension(connection, name).label(f"by_{name}") for name in by]
    conditions = [usage_hourly.c.hour >= since, usage_hourly.c.hour < until]
    if project_id is not None:
        conditions.append(usage_hourly.c.project_id == project_id)
    if key_id is not None:
        conditions.append(usage_hourly.c.key_id == key_id)
    sums = [sa.func.coalesce(sa.func.sum(usage_hourly.c[name]), 0).label(name) for name in USAGE_COUNTS]
    statement = (
        sa.select(*groups, *sums)
        .join_from(usage_hourly, projects, projects.c.id == usage_hourly.c.project_id)
        .where(*conditions)
        .group_by(*groups)
        .order_by(*groups)
    )
    found = (await connection.execute(statement)).all()
    return [
        UsageRow(
            group={name: str(getattr(row, f"by_{name}") or "") for name in by},
            counts=Counts(**{name: int(getattr(row, name)) for name in USAGE_COUNTS}),
        )
        for row in found
    ]


def _dimension(connection: ReadConnection, name: str) -> Any:
    if name in FORMATS:
        postgres, sqlite = FORMATS[name]
        if dialect_of(connection) == "sqlite":
            return sa.func.strftime(_constant(sqlite), usage_hourly.c.hour, type_=sa.Text)
        return sa.func.to_char(
            sa.func.timezone(_constant("UTC"), usage_hourly.c.hour), _constant(postgres), type_=sa.Text
        )
    return {
        "project": projects.c.name,
        "key": usage_hourly.c.key_id,
        "model": usage_hourly.c.model,
        "upstream": usage_hourly.c.upstream,
        "label": usage_hourly.c.label,
    }[name]


def _constant(text: str) -> Any:
    """Written into the statement: PostgreSQL does not see that two parameters, in SELECT and GROUP BY, are equal."""
    return sa.literal(text, literal_execute=True)
