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

from tollgate.store import feeds, rows
from tollgate.store.database import Database, ReadConnection, WriteConnection, dialect_of
from tollgate.store.feeds import Due, Taken
from tollgate.store.schema import QUEUED, QUEUED_BY_ID, tasks

AGAIN_AFTER_S = {"interactive": 15.0, "bulk": 30.0}
"""By priority: how long a hint is trusted before it is given once more."""
LOCK = 7_465_217_002
"""Advisory lock: of many announcers one works at a time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Queue:
    """Tasks of one route in one lane."""

    route: str
    lane: str


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


async def queues(connection: ReadConnection) -> list[Queue]:
    """The (route, lane) pairs that have queued tasks: a walk from one index key to the next, however many wait."""
    found: list[Queue] = []
    following = await _first(connection, sa.true())
    while following is not None:
        found.append(following)
        # One bound a statement: SQLite takes (route, lane) > (?, ?) for a bound of the route alone, and steps over
        # every task of the queue it just found.
        same_route = sa.and_(tasks.c.route == following.route, tasks.c.lane > following.lane)
        following = await _first(connection, same_route) or await _first(connection, tasks.c.route > following.route)
    return found


async def _first(connection: ReadConnection, where: sa.ColumnElement[bool]) -> Queue | None:
    statement = (
        sa.select(tasks.c.route, tasks.c.lane)
        .where(tasks.c.state == QUEUED, where)
        .order_by(tasks.c.route, tasks.c.lane)
        .limit(1)
    )
    row = (await connection.execute(statement)).first()
    return None if row is None else Queue(route=row.route, lane=row.lane)


async def take_due(
    connection: WriteConnection, queue: Queue, *, limit: int, now: datetime, after: UUID | None = None
) -> Taken:
    """Up to `limit` tasks of a queue that are due and not freshly announced; marks them announced.

    Its feeds share them evenly, beginning with the one that follows `after`; each gives what was due first."""
    again = now - timedelta(seconds=AGAIN_AFTER_S[queue.lane.partition(".")[2]])
    due = Due(route=queue.route, lane=queue.lane, now=now, again=again)
    return await feeds.take(connection, due, limit=limit, after=after)


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
        .where(tasks.c.state == QUEUED, tasks.c.deadline <= now, tasks.c.id.not_in(sa.select(given.c.id)))
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
