"""Which queued tasks are due to be told to workers, and which are too late to run at all.

`announced_at` is a lease on the hint: a row still queued some time after is told again, so that a lost
message costs seconds and a repeated one nothing.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

import sqlalchemy as sa

from tollgate.store import rows
from tollgate.store.database import Database, ReadConnection, WriteConnection, dialect_of
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
    route, lane = "", ""
    while True:
        # A comparison of rows is one bound of the index. Written with OR it would be a filter, and
        # step over every task of the queue it just found.
        after = sa.tuple_(tasks.c.route, tasks.c.lane) > sa.tuple_(sa.literal(route), sa.literal(lane))
        statement = (
            sa.select(tasks.c.route, tasks.c.lane)
            .where(tasks.c.state == QUEUED, after)
            .order_by(tasks.c.route, tasks.c.lane)
            .limit(1)
        )
        row = (await connection.execute(statement)).first()
        if row is None:
            return found
        route, lane = row.route, row.lane
        found.append(Queue(route=route, lane=lane))


async def take_due(connection: WriteConnection, queue: Queue, *, limit: int, now: datetime) -> list[UUID]:
    """Up to `limit` tasks of a queue that are due and not freshly announced; marks them announced."""
    again = now - timedelta(seconds=AGAIN_AFTER_S[queue.lane.partition(".")[2]])
    due = (
        sa.select(tasks.c.id)
        .where(
            tasks.c.state == QUEUED,
            tasks.c.route == queue.route,
            tasks.c.lane == queue.lane,
            tasks.c.not_before <= now,
            tasks.c.deadline > now,
            sa.or_(tasks.c.announced_at.is_(None), tasks.c.announced_at < again),
        )
        .order_by(tasks.c.not_before)
        .limit(limit)
        .with_for_update(skip_locked=True)
        .cte("due")
    )
    statement = (
        sa.update(tasks).where(tasks.c.id.in_(sa.select(due.c.id))).values(announced_at=now).returning(tasks.c.id)
    )
    return sorted((await connection.execute(statement)).scalars())


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


async def overdue(connection: ReadConnection, *, now: datetime, limit: int) -> list[Overdue]:
    statement = (
        sa.select(tasks.c.id, tasks.c.fence, tasks.c.attempt)
        .where(tasks.c.state == QUEUED, tasks.c.deadline <= now)
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
