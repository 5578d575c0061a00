"""The roll-ups by day against the hourly one, whose sums they are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from tollgate.store.database import ReadConnection, dialect_of
from tollgate.store.reconcile.checks import Check, count_of
from tollgate.store.reconcile.roll_up import compared, of_rows, with_names
from tollgate.store.schema import DAILY_KEY, TOTALS_KEY, usage_daily, usage_daily_totals, usage_hourly


def _check(name: str, table: sa.Table, key: Sequence[str], *, says: str) -> Check:
    group = [column for column in key if column != "shard"]

    def differences(connection: ReadConnection) -> sa.Select[Any]:
        """The groups that are not the sums of their hours; also such as one side alone has."""
        by_hour = {column: usage_hourly.c[column] for column in group if column != "day"}
        differing = compared(
            group,
            of_rows("found", table, {column: table.c[column] for column in group}),
            of_rows("expected", usage_hourly, {"day": _day(connection), **by_hour}),
        )
        keys = {column: differing.c[column] for column in group}
        return with_names(differing, keys | {"day": _text(connection, differing.c.day).label("day")})

    return Check(name=name, says=says, differences=differences, population=count_of(table))


CHECKS = (
    _check("roll-up-by-day", usage_daily, DAILY_KEY, says="each day's sums are those of its hours"),
    _check(
        "totals-by-day",
        usage_daily_totals,
        TOTALS_KEY,
        says="each day's totals are those of its hours, keys and labels",
    ),
)


def _day(connection: ReadConnection) -> Any:
    """In UTC, whatever the session's time zone."""
    if dialect_of(connection) == "sqlite":
        return sa.func.date(usage_hourly.c.hour, type_=sa.Date)
    # Written into the statement: two parameters, in SELECT and GROUP BY, are not the same to PostgreSQL.
    return sa.cast(sa.func.timezone(sa.literal("UTC", literal_execute=True), usage_hourly.c.hour), sa.Date)


def _text(connection: ReadConnection, day: Any) -> Any:
    return sa.type_coerce(day, sa.Text) if dialect_of(connection) == "sqlite" else sa.func.to_char(day, "YYYY-MM-DD")
