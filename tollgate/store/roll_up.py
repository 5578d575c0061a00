"""The roll-ups of usage: by hour, by day, and by day over all keys and labels.

All three are booked in the transaction that settles, each the sum of the one before, so that they agree at every
commit. A settler adds to rows of its own shard. Whoever locks rows here takes them in the order of the tables and of
their keys: nobody waits for another in a ring.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable, Sequence
from datetime import UTC
from typing import Any

import sqlalchemy as sa

from tollgate.domain.settling import COUNTS, Booking, counted
from tollgate.store.rows import Given, Statement, Step
from tollgate.store.schema import DAILY_KEY, TOTALS_KEY, USAGE_KEY, usage_daily, usage_daily_totals, usage_hourly

SHARDS = 16
"""Rows an hour's or a day's account is spread over, so that settling workers do not queue up for one."""
Sums = dict[tuple[Any, ...], tuple[int, ...]]
"""By a row's key, in the order of COUNTS."""


class RollUp:
    """One of the tables. `key`: its columns up to the shard, which is the last."""

    def __init__(self, table: sa.Table, key: Sequence[str], *, counts: Sequence[str] = COUNTS) -> None:
        self.table = table
        self.key = key
        self._counts = counts
        self._given = Given.of(table, *key, *counts, name=table.name)

    def adding(self, sums: Sums) -> Step:
        """To the rows of these keys, in their order; those that are not there yet begin."""
        values = [(*key, *counts) for key, counts in sorted(sums.items(), key=lambda item: item[0])]
        return Step(self._upsert, self._given, values)

    def _upsert(self, dialect: str) -> Statement:
        insert = self._given.insert(dialect, self.table)
        added: Statement = insert.on_conflict_do_update(
            index_elements=list(self.key),
            set_={name: self.table.c[name] + insert.excluded[name] for name in self._counts},
        )
        return added


HOURLY = RollUp(usage_hourly, USAGE_KEY)
DAILY = RollUp(usage_daily, DAILY_KEY)
TOTALS = RollUp(usage_daily_totals, TOTALS_KEY)
ROLL_UPS = (HOURLY, DAILY, TOTALS)
"""In the order in which their rows are taken."""


def booking(bookings: Sequence[Booking], *, shard: int) -> tuple[Step, ...]:
    """Add to all roll-ups. Once a transaction, at its end, for the order of the rows. `shard`: any number."""
    own = shard % SHARDS
    hourly = summed(
        ((b.hour, b.project_id, b.key_id, b.model, b.upstream, b.label, own), counted(b.counts)) for b in bookings
    )
    daily = summed(((hour.astimezone(UTC).date(), *of), counts) for (hour, *of), counts in hourly.items())
    totals = summed(
        ((day, project_id, model, upstream, own), counts)
        for (day, project_id, _, model, upstream, _, _), counts in daily.items()
    )
    return HOURLY.adding(hourly), DAILY.adding(daily), TOTALS.adding(totals)


def summed(entries: Iterable[tuple[tuple[Any, ...], Sequence[int]]]) -> Sums:
    sums: Sums = {}
    for key, counts in entries:
        before = sums.get(key)
        sums[key] = tuple(counts) if before is None else tuple(map(operator.add, before, counts))
    return sums
