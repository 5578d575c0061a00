"""What the lines of batches came to: kept by the transactions that settle, in shards as the roll-ups are."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import fields
from uuid import UUID

import sqlalchemy as sa

from tollgate.domain.batches import Sums
from tollgate.domain.settling import Booking, counted
from tollgate.domain.states import TaskState
from tollgate.store.database import ReadConnection
from tollgate.store.roll_up import SHARDS, RollUp, summed
from tollgate.store.rows import Step
from tollgate.store.schema import BATCH_COUNTS, batch_sums

ROLL_UP = RollUp(batch_sums, ("batch_id", "shard"), counts=BATCH_COUNTS)


NAMES = tuple(f.name for f in fields(Sums))


def booking(bookings: Sequence[Booking], *, shard: int) -> Step:
    """Add to the sums of their batches. Its rows are taken after the roll-ups', in order."""
    own = shard % SHARDS
    return ROLL_UP.adding(summed(((b.batch_id, own), _counts(b)) for b in bookings if b.batch_id is not None))


def _counts(booking: Booking) -> tuple[int, ...]:
    ended = booking.ended
    return (*counted(booking.counts), int(ended is TaskState.CANCELLED), int(ended is TaskState.EXPIRED))


def superseding(batch_id: UUID, states: Sequence[TaskState]) -> Step:
    """Take lines that ended so, and are to be tried again, off the counts of tasks."""
    gone = Sums(
        tasks_failed=-len(states),
        tasks_cancelled=-sum(state is TaskState.CANCELLED for state in states),
        tasks_expired=-sum(state is TaskState.EXPIRED for state in states),
    )
    return ROLL_UP.adding({(batch_id, 0): tuple(getattr(gone, name) for name in BATCH_COUNTS)})


async def read(connection: ReadConnection, batch_ids: Collection[UUID]) -> dict[UUID, Sums]:
    """Of those that have any."""
    if not batch_ids:
        return {}
    statement = (
        sa.select(batch_sums.c.batch_id, *(sa.func.sum(batch_sums.c[name]).label(name) for name in NAMES))
        .where(batch_sums.c.batch_id.in_(sorted(batch_ids)))
        .group_by(batch_sums.c.batch_id)
    )
    found = (await connection.execute(statement)).all()
    return {row.batch_id: Sums(**{name: int(getattr(row, name)) for name in NAMES}) for row in found}
