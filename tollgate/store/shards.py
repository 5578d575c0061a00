"""Merges the shards of what is over: its rows are added to shard 0, and are then one where they were up to sixteen.

Exact at any moment: a row is taken out and added elsewhere in one transaction, and a late answer that books meanwhile
finds its row gone, and begins it anew. Any number may merge at once: each takes what nobody holds.
"""

from __future__ import annotations

from datetime import date, datetime, timedelta
from typing import Any

import sqlalchemy as sa

from tollgate.domain.settling import COUNTS
from tollgate.store import roll_up, rows
from tollgate.store.database import WriteConnection
from tollgate.store.roll_up import RollUp

OVER_AFTER = timedelta(hours=2)
"""An hour or a day takes so long after its end before it is merged: most calls that began in it have ended."""
AT_ONCE = 2_000
"""Rows a transaction takes: a late answer for one of them waits for some 0.1 s."""


async def merge(connection: WriteConnection, into: RollUp, *, now: datetime, limit: int = AT_ONCE) -> int:
    """Move up to `limit` rows of a roll-up to shard 0. Returns how many; 0: none is left, or others hold them.

    A settler may wait here for a row of its shard, and this for one of shard 0. Not in a ring: rows of shard 0 are
    taken in their order, and who books into them waits for no other shard."""
    found = await _take(connection, into, now=now, limit=limit)
    await rows.execute_together(connection, into.adding(roll_up.summed(found)))
    return len(found)


async def _take(
    connection: WriteConnection, source: RollUp, *, now: datetime, limit: int
) -> list[tuple[tuple[Any, ...], tuple[int, ...]]]:
    """Delete rows of other shards; what each held, and the key in shard 0 where it goes."""
    table = source.table
    key = [table.c[name] for name in source.key]
    scattered = (
        sa.select(*key)
        .where(sa.text("shard > 0"), key[0] < _over(key[0], now))  # in the words of the partial index
        .order_by(key[0])
        .limit(limit)
        .with_for_update(skip_locked=True)
        .cte("scattered")
    )
    taken = (
        sa.delete(table)
        .where(sa.tuple_(*key).in_(sa.select(*scattered.c)))
        .returning(*key[:-1], *(table.c[name] for name in COUNTS))
    )
    found = (await connection.execute(taken)).all()
    dimensions = len(key) - 1
    return [((*row[:dimensions], 0), tuple(row[dimensions:])) for row in found]


def _over(column: sa.Column[Any], now: datetime) -> datetime | date:
    """The first hour or day that is not."""
    hour = (now - OVER_AFTER).replace(minute=0, second=0, microsecond=0)
    return hour.date() if isinstance(column.type, sa.Date) else hour
