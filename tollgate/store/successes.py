"""Settles what went as foreseen in one statement, without reading it first: answers of plain tasks.

A claim tells whose account a task is, and that no budget holds it and nobody is told of its end (`Known`). Where that
still stands when the rows are locked, and each task runs under the lease that answers, what its settlement writes is
known before; where it does not stand of one of them, nothing is written, and `settlements` settles them all. It is for
PostgreSQL: on SQLite there is no way to a server and back to be saved.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

import sqlalchemy as sa

from tollgate.domain.settling import NOTHING_BILLED, AttemptRow, Known, Resolution, Settlement, TaskRow, resolve
from tollgate.domain.states import AttemptOutcome, TaskState
from tollgate.store import batch_sums, roll_up, rows, settlements, transitions, webhooks
from tollgate.store.database import WriteConnection
from tollgate.store.direct import Direct
from tollgate.store.rows import Step
from tollgate.store.schema import RUNNING_BY_ID, attempts, tasks

EXPECTED = rows.Given.of(tasks, "id", "fence", "attempt", name="expected")


def are_plain(given: Sequence[Settlement]) -> bool:
    """Whether they may be settled here: successes of tasks that are `Known`, none of them twice."""
    plain = all(s.known is not None and s.state is TaskState.SUCCEEDED and s.held is TaskState.RUNNING for s in given)
    return plain and len({s.task_id for s in given}) == len(given)


async def settle(
    connection: WriteConnection | Direct, given: Sequence[Settlement], *, now: datetime, shard: int
) -> list[Resolution] | None:
    """One resolution each, in order; None: not as foreseen, nothing was written. One statement: with `write_once` it is
    committed when this returns."""
    resolved = [_foreseen(settlement, known, now) for settlement in given if (known := settlement.known) is not None]
    bookings = [booking for resolution in resolved for booking in resolution.bookings]
    written = await rows.execute_if_found(
        connection,
        Step(_standing, EXPECTED, [(s.task_id, s.fence, s.attempt) for s in given]),
        settlements.closing(given, now),
        transitions.moving(given, now),
        settlements.keeping(resolved),
        *roll_up.booking(bookings, shard=shard),
        batch_sums.booking(bookings, shard=shard),
        count=len(given),
    )
    return resolved if written else None


def _foreseen(settlement: Settlement, known: Known, now: datetime) -> Resolution:
    """As `_standing` will find its rows."""
    task = TaskRow(
        id=settlement.task_id,
        project_id=known.project_id,
        key_id=known.key_id,
        model=known.model,
        label=known.label,
        state=TaskState.RUNNING,
        fence=settlement.fence,
        cancel_requested=False,  # of no account to a success
        batch_id=known.batch_id,
    )
    attempt = AttemptRow(
        upstream=known.upstream,
        outcome=AttemptOutcome.OPEN,
        started_at=known.attempt_started_at,
        bill=NOTHING_BILLED,  # an open one counts nothing, whatever was noted of it
    )
    return resolve(settlement, task, attempt, now=now)


def _standing(dialect: str) -> rows.Statement:
    """Both rows are locked, and looked at again as they stand once they are. Endpoints are looked for as of the
    statement's beginning, as when rows are read first."""
    given = EXPECTED.table(dialect)
    return (
        sa.select(tasks.c.id)
        .join(given, tasks.c.id == given.c.id)
        .join(attempts, sa.and_(attempts.c.task_id == tasks.c.id, attempts.c.number == tasks.c.attempt))
        .where(
            RUNNING_BY_ID,
            tasks.c.fence == given.c.fence,
            tasks.c.attempt == given.c.attempt,
            tasks.c.charged_to.is_(None),
            tasks.c.callback_url.is_(None),
            sa.not_(webhooks.watching(tasks)),
            attempts.c.outcome == AttemptOutcome.OPEN,
        )
        .order_by(tasks.c.id)
        .with_for_update(of=[tasks, attempts])
    )
