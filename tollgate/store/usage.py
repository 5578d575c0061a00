"""Usage and cost, read from the roll-ups only: the time it takes does not grow with the tasks.

Whole days come from a roll-up by day, what is left of the period at both ends from the hourly one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from tollgate.domain.settling import Counts
from tollgate.store.database import ReadConnection, dialect_of
from tollgate.store.schema import (
    USAGE_COUNTS,
    projects,
    usage_daily,
    usage_daily_totals,
    usage_hourly,
)

DIMENSIONS = ("hour", "day", "month", "project", "key", "model", "upstream", "label")
FORMATS = {
    "hour": ("YYYY-MM-DD HH24:00", "%Y-%m-%d %H:00"),
    "day": ("YYYY-MM-DD", "%Y-%m-%d"),
    "month": ("YYYY-MM", "%Y-%m"),
}
"""Of a time in UTC, for PostgreSQL's to_char and SQLite's strftime: the same text."""
COLUMNS = {"project": "project_id", "key": "key_id", "model": "model", "upstream": "upstream", "label": "label"}


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageRow:
    """One group: its dimensions as text, in the order asked for, and its sums."""

    group: dict[str, str]
    sums: tuple[int, ...]
    """In the order of USAGE_COUNTS. A year has thousands of groups, and their Counts take longer than the query."""

    @property
    def counts(self) -> Counts:
        return Counts(**dict(zip(USAGE_COUNTS, self.sums, strict=True)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A question: sums by the dimensions of `by` over [since, until)."""

    by: Sequence[str]
    since: datetime
    until: datetime
    project_id: UUID | None
    key_id: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A piece of the period, [start, end), and the roll-up that has it in the fewest rows."""

    table: sa.Table
    start: datetime | date
    end: datetime | date

    @property
    def at(self) -> sa.Column[Any]:
        return self.table.c.hour if self.table is usage_hourly else self.table.c.day


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
    asked = Asked(by=by, since=since, until=until, project_id=project_id, key_id=key_id)
    found = (await connection.execute(_statement(connection, asked))).all()
    return [UsageRow(group=dict(zip(by, row, strict=False)), sums=row[len(by) :]) for row in found]


def total(found: Sequence[UsageRow]) -> tuple[int, ...]:
    """Over all groups, in the order of USAGE_COUNTS."""
    return tuple(map(sum, zip(*(row.sums for row in found), strict=True))) or (0,) * len(USAGE_COUNTS)


def parts(asked: Asked) -> Iterator[Part]:
    """Which roll-up is asked for which piece of the period; without a gap, and none twice."""
    first, end = _whole_days(asked)
    if "hour" in asked.by or first >= end:
        yield Part(table=usage_hourly, start=asked.since, end=asked.until)
        return
    in_detail = asked.key_id is not None or not {"key", "label"}.isdisjoint(asked.by)
    yield Part(table=usage_daily if in_detail else usage_daily_totals, start=first, end=end)
    if asked.since < _midnight(first):
        yield Part(table=usage_hourly, start=asked.since, end=_midnight(first))
    if _midnight(end) < asked.until:
        yield Part(table=usage_hourly, start=_midnight(end), end=asked.until)


def _whole_days(asked: Asked) -> tuple[date, date]:
    """The first day in UTC of which every hour begins in the period, and the first after it of which not."""
    since, until = asked.since.astimezone(UTC), asked.until.astimezone(UTC)
    first = since.date() if since.time() == time.min else since.date() + timedelta(days=1)
    return first, (until + timedelta(hours=1, microseconds=-1)).date()


def _midnight(day: date) -> datetime:
    return datetime.combine(day, time.min, UTC)


def _statement(connection: ReadConnection, asked: Asked) -> sa.Select[Any]:
    """Grouped by what the rows have; only the groups, which are few, get the words of the answer."""
    rows = sa.union_all(*(_rows(connection, asked, part) for part in parts(asked))).subquery("rows")
    source = rows.join(projects, projects.c.id == rows.c.project) if "project" in asked.by else rows
    groups = [_text(connection, rows, name).label(f"by_{name}") for name in asked.by]
    sums = (sa.func.coalesce(sa.func.sum(rows.c[name]), 0) for name in USAGE_COUNTS)
    return (
        # PostgreSQL's sum of bigints is a numeric, slow to read.
        sa.select(*groups, *(sa.cast(total, sa.BigInteger) for total in sums))
        .select_from(source)
        .group_by(*(projects.c.name if name == "project" else rows.c[name] for name in _keys(asked)))
        .order_by(*groups)
    )


def _keys(asked: Asked) -> list[str]:
    """What is grouped by: the columns of the dimensions, and one time for all that are of time."""
    of_time = [] if FORMATS.keys().isdisjoint(asked.by) else ["at"]
    return [*of_time, *(name for name in asked.by if name not in FORMATS)]


def _rows(connection: ReadConnection, asked: Asked, part: Part) -> sa.Select[Any]:
    table = part.table
    conditions = [part.at >= part.start, part.at < part.end]
    if asked.project_id is not None:
        conditions.append(table.c.project_id == asked.project_id)
    if asked.key_id is not None:
        conditions.append(table.c.key_id == asked.key_id)
    columns = [table.c[COLUMNS[name]].label(name) for name in asked.by if name in COLUMNS]
    if not FORMATS.keys().isdisjoint(asked.by):
        columns.append(_at(connection, asked, part.at).label("at"))
    return sa.select(*columns, *(table.c[name] for name in USAGE_COUNTS)).where(*conditions)


def _at(connection: ReadConnection, asked: Asked, at: sa.Column[Any]) -> Any:
    """In UTC, the finest time that is asked for: an hour, a day, or a month's first day."""
    daily, by_day = isinstance(at.type, sa.Date), "day" in asked.by
    if dialect_of(connection) == "sqlite":
        if "hour" in asked.by:
            return at
        return sa.func.date(at) if by_day else sa.func.date(at, "start of month")
    if daily and by_day:
        return at
    moment = sa.cast(at, sa.DateTime) if daily else sa.func.timezone("UTC", at, type_=sa.DateTime)
    if "hour" in asked.by:
        return moment
    return sa.cast(moment if by_day else sa.func.date_trunc("month", moment), sa.Date)


def _text(connection: ReadConnection, rows: sa.Subquery, name: str) -> Any:
    if name == "project":
        return projects.c.name
    if name not in FORMATS:
        return rows.c[name]
    postgres, sqlite = FORMATS[name]
    if dialect_of(connection) == "sqlite":
        return sa.func.strftime(_constant(sqlite), rows.c.at, type_=sa.Text)
    return sa.func.to_char(sa.cast(rows.c.at, sa.DateTime), _constant(postgres), type_=sa.Text)


def _constant(text: str) -> Any:
    """Written into the statement: PostgreSQL does not see that two parameters, in SELECT and GROUP BY, are equal."""
    return sa.literal(text, literal_execute=True)
