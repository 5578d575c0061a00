"""A pause of a batch: none of its lines is told to workers or claimed, and what was told waits as if it had not been.

Hints that are out are refused by the claim. A transaction that tells lines while the pause commits may leave some
marked: they are told again once their hints are old. A pause for want of room in a budget is over when a day or month
budget of the batch's begins anew: if it was another one that is full, its next line pauses it again.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, time
from uuid import UUID

import sqlalchemy as sa

from tollgate.domain.batches import BatchState, PauseCode
from tollgate.domain.budgets import Period
from tollgate.store import queues, reservations, rows
from tollgate.store.database import ReadConnection, WriteConnection
from tollgate.store.queues import Queue
from tollgate.store.schema import QUEUED_BY_ID, batches, budgets, tasks

LOOKED_AT = 10_000
"""Lines of each queue, those that were due first. What was told stands among them: a feed gives its lines in this
order, and some thousands at most are told and not begun."""
GOING = (BatchState.VALIDATING, BatchState.IN_PROGRESS)
NO_PAUSE = {"paused_at": None, "paused_code": None, "paused_why": None}
IDS = rows.Given.of(tasks, "id")


async def begin(
    connection: WriteConnection, batch_id: UUID, *, code: PauseCode, why: str, now: datetime, wait: bool = True
) -> bool:
    """False: it is paused already, or has ended, or is being cancelled. An owner's pause takes the place of one that
    would be over by itself. Without `wait` False also where somebody else changes it just now: whoever holds tasks must
    not wait for a batch, for others wait the other way round."""
    free: sa.ColumnElement[bool] = batches.c.paused_at.is_(None)
    if code is PauseCode.OWNER:
        free = sa.or_(free, batches.c.paused_code == PauseCode.BUDGET)
    held = (
        sa.select(batches.c.id)
        .where(batches.c.id == batch_id, free, batches.c.state.in_(GOING))
        .with_for_update(key_share=True, skip_locked=not wait)
    )
    if (await connection.execute(held)).first() is None:
        return False
    values = {"paused_at": now, "paused_code": code, "paused_why": why}
    await connection.execute(sa.update(batches).where(batches.c.id == batch_id).values(values))
    return True


async def over(connection: ReadConnection, *, now: datetime) -> list[UUID]:
    """Batches that are paused for want of room in a budget, and of which one began anew since."""
    return list((await connection.execute(sa.select(batches.c.id).where(_over(now)))).scalars())


async def lift(connection: WriteConnection, batch_id: UUID, *, now: datetime) -> bool:
    """End a pause that is `over`. False: somebody else did, or made another of it."""
    lifted = sa.update(batches).where(batches.c.id == batch_id, _over(now)).values(NO_PAUSE).returning(batches.c.id)
    if (await connection.execute(lifted)).first() is None:
        return False
    await take_back(connection, batch_id)
    return True


def _over(now: datetime) -> sa.ColumnElement[bool]:
    today = now.astimezone(UTC).date()
    anew = [
        sa.and_(
            budgets.c.period == period, batches.c.paused_at < datetime.combine(period.starts_on(today), time(), UTC)
        )
        for period in Period
        if not period.endless
    ]
    covering = (
        budgets.c.project_id == batches.c.project_id,
        budgets.c.batch_id.is_(None),
        sa.or_(budgets.c.key_id.is_(None), budgets.c.key_id == batches.c.key_id),
    )
    begun = sa.exists().where(*covering, sa.or_(*anew)).correlate(batches)
    return sa.and_(
        batches.c.ended_at.is_(None),  # in the words of an index
        batches.c.paused_code == PauseCode.BUDGET,
        batches.c.state.in_(GOING),
        begun,
    )


async def take_back(connection: WriteConnection, batch_id: UUID) -> None:
    """Lines that were told and are not begun are not told any more, and hold nothing in budgets: it may be for long."""
    told = [i for queue in await queues.read(connection) for i in await _told(connection, queue, batch_id)]
    free = (await rows.execute(connection, _locking, IDS, [(i,) for i in sorted(told)])).scalars().all()
    await rows.execute(connection, _unmarking, IDS, [(i,) for i in free])
    await reservations.release(connection, free)


async def _told(connection: ReadConnection, queue: Queue, batch_id: UUID) -> Sequence[UUID]:
    first = (
        sa.select(tasks.c.id, tasks.c.announced_at)
        .where(*queue.waiting, tasks.c.feed == batch_id)
        .order_by(tasks.c.not_before)
        .limit(LOOKED_AT)
        .subquery()
    )
    return (await connection.execute(sa.select(first.c.id).where(first.c.announced_at.is_not(None)))).scalars().all()


def _locking(dialect: str) -> rows.Statement:
    """What somebody has locked is being claimed, or ends."""
    return (
        sa.select(tasks.c.id)
        .where(tasks.c.id.in_(sa.select(IDS.table(dialect).c.id)), QUEUED_BY_ID)
        .order_by(tasks.c.id)
        .with_for_update(skip_locked=True)
    )


def _unmarking(dialect: str) -> rows.Statement:
    return sa.update(tasks).where(tasks.c.id.in_(sa.select(IDS.table(dialect).c.id))).values(announced_at=None)
