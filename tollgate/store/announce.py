"""Which queued tasks are due to be told to workers, and which are too late to run at all.

`announced_at` is a lease on the hint: a row still queued some time after is told again, so that a lost
message costs seconds and a repeated one nothing.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

import sqlalchemy as sa

from tollgate.domain.prices import PriceTable
from tollgate.store import dispatch, feeds, rows
from tollgate.store.database import Database, ReadConnection, WriteConnection, dialect_of
from tollgate.store.feeds import Due, Taken
from tollgate.store.queues import Queue
from tollgate.store.schema import QUEUED, QUEUED_BY_ID, QUEUED_MAY_BE_OVER, tasks

AGAIN_AFTER_S = {"interactive": 15.0, "bulk": 30.0}
"""By priority: how long a hint is trusted before it is given once more."""
LEFT_AGAIN_S = 4.0
"""The same on a route that is left, whose hints nobody takes: two rounds, so that what cannot leave it does not stand
in the way of what can."""
FROM_THE_FIRST: Mapping[Queue, UUID | None] = {}
NONE_LOST: Mapping[Queue, datetime] = {}
LOCK = 7_465_217_002
"""Advisory lock: of many announcers one works at a time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Overdue:
    """A queued task whose deadline has passed."""

    id: UUID
    fence: int
    attempt: int


@contextlib.asynccontextmanager
async def turn(database: Database) -> AsyncIterator[WriteConnection | None]:
    """A transaction for the one announcer whose turn it is, None for the others."""
    async with database.write() as connection:
        yield connection if await _is_first(connection) else None


async def _is_first(connection: WriteConnection) -> bool:
    if dialect_of(connection) == "sqlite":
        return True  # the one writing connection is its lock
    return bool((await connection.execute(sa.select(sa.func.pg_try_advisory_xact_lock(LOCK)))).scalar_one())


async def take_due(
    connection: WriteConnection,
    wanted: Mapping[Queue, int],
    *,
    now: datetime,
    prices: PriceTable,
    after: Mapping[Queue, UUID | None] = FROM_THE_FIRST,
    leaving: Collection[Queue] = (),
    lost: Mapping[Queue, datetime] = NONE_LOST,
) -> dict[Queue, Taken]:
    """Of each queue up to so many tasks that are due and not freshly announced; marks them announced.

    Its feeds share them evenly, beginning with the one that follows that of `after`; each gives what was due first.
    Of those of `leaving` the tasks that may go elsewhere. `lost`: hints given before were taken by nobody. Lines of
    batches reserve in budgets now, by `prices`; those that do not fit stay. Once a transaction: it locks budgets in
    their order."""
    dues = {queue: _due(queue, now=now, leaving=queue in leaving, lost=lost.get(queue)) for queue in wanted}
    taken = {
        queue: await feeds.take(connection, dues[queue], limit=limit, after=after.get(queue))
        for queue, limit in wanted.items()
    }
    unreserved = [line for found in taken.values() for line in found.unreserved]
    refused = await dispatch.reserve(connection, unreserved, prices=prices, now=now)
    if refused:
        for queue, found in taken.items():
            taken[queue] = await _with_held(connection, dues[queue], found, refused)
    return taken


def _due(queue: Queue, *, now: datetime, leaving: bool, lost: datetime | None) -> Due:
    again_s = LEFT_AGAIN_S if leaving else AGAIN_AFTER_S[queue.lane.partition(".")[2]]
    again = now - timedelta(seconds=again_s)
    return Due(queue=queue, now=now, again=max(again, lost or again), leaving=leaving)


async def _with_held(connection: WriteConnection, due: Due, found: Taken, refused: Collection[UUID]) -> Taken:
    places = [feed for line, feed in found.unreserved.items() if line in refused]
    if not places:
        return found
    held = await feeds.take_held(connection, due, list(dict.fromkeys(places)), limit=len(places))
    return found.instead(refused, held)


async def unannounce(connection: WriteConnection, ids: Sequence[UUID]) -> None:
    """A worker that could not take these gives the hint back."""
    given = rows.table_of(connection, {"id": tasks.c.id.type}, [(i,) for i in ids])
    # Rows that somebody has locked are being claimed or settled: they need no hint.
    free = (
        sa.select(tasks.c.id)
        .where(tasks.c.id.in_(sa.select(given.c.id)), QUEUED_BY_ID)
        .order_by(tasks.c.id)
        .with_for_update(skip_locked=True)
        .cte("free")
    )
    await connection.execute(sa.update(tasks).where(tasks.c.id.in_(sa.select(free.c.id))).values(announced_at=None))


async def forget_hints(connection: WriteConnection) -> None:
    """Every hint is lost (the embedded mode's broker died with its process): what is queued is told again at once."""
    await connection.execute(
        sa.update(tasks).where(tasks.c.state == QUEUED, tasks.c.announced_at.is_not(None)).values(announced_at=None)
    )


async def overdue(
    connection: ReadConnection, *, now: datetime, limit: int, without: Collection[UUID] = ()
) -> list[Overdue]:
    """Those whose deadline passed first; not those of `without`."""
    given = rows.table_of(connection, {"id": tasks.c.id.type}, [(i,) for i in without])
    statement = (
        sa.select(tasks.c.id, tasks.c.fence, tasks.c.attempt)
        .where(QUEUED_MAY_BE_OVER, tasks.c.deadline <= now, tasks.c.id.not_in(sa.select(given.c.id)))
        .order_by(tasks.c.deadline)
        .limit(limit)
    )
    return [Overdue(**row._mapping) for row in (await connection.execute(statement)).all()]


def by_lane(told: Mapping[Queue, Sequence[UUID]]) -> dict[str, dict[str, list[UUID]]]:
    """lane -> route -> ids: one message a lane."""
    messages: dict[str, dict[str, list[UUID]]] = {}
    for queue, ids in told.items():
        if ids:
            messages.setdefault(queue.lane, {}).setdefault(queue.route, []).extend(ids)
    return messages
