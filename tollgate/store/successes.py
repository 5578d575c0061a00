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

from tollgate.domain.settling import BILL, Resolution, Settlement, billed, foreseen
from tollgate.domain.states import AttemptOutcome, TaskState
from tollgate.store import batch_sums, roll_up, rows, webhooks
from tollgate.store.database import WriteConnection
from tollgate.store.direct import Direct
from tollgate.store.rows import Step
from tollgate.store.schema import RUNNING_BY_ID, attempts, task_results, tasks

ANSWERED = rows.Given(
    {name: tasks.c[name].type for name in ("id", "fence", "attempt")}
    | {name: attempts.c[name].type for name in ("http_status", *BILL)},
    name="answered",
)
RESULTS = rows.Given.of(task_results, "task_id", "attempt", "body", name="results")
NOW = sa.bindparam("now", type_=tasks.c.ended_at.type)


def are_plain(given: Sequence[Settlement]) -> bool:
    """Whether they may be settled here: successes of tasks that are `Known`, none of them twice."""
    return all(map(_is_plain, given)) and len({s.task_id for s in given}) == len(given)


def _is_plain(s: Settlement) -> bool:
    answered = s.state is TaskState.SUCCEEDED and s.result is not None
    return answered and s.known is not None and s.held is TaskState.RUNNING and s.credential is None


async def settle(
    connection: WriteConnection | Direct, given: Sequence[Settlement], *, now: datetime, shard: int
) -> list[Resolution] | None:
    """One resolution each, in order; None: not as foreseen, nothing was written. One statement: with `write_once` it is
    committed when this returns."""
    resolved = [foreseen(settlement, known, now=now) for settlement in given if (known := settlement.known) is not None]
    bookings = [booking for resolution in resolved for booking in resolution.bookings]
    answered = [(s.task_id, s.fence, s.attempt, s.http_status, *billed(s.bill)) for s in given]
    written = await rows.execute_if_found(
        connection,
        Step(_standing, ANSWERED, answered),
        Step(_closing, ANSWERED, answered),
        Step(_ending, ANSWERED, answered),
        Step(_keeping, RESULTS, [(s.task_id, s.attempt, s.result) for s in given]),
        *roll_up.booking(bookings, shard=shard),
        batch_sums.booking(bookings, shard=shard),
        count=len(given),
        now=now,
    )
    return resolved if written else None


def _standing(dialect: str) -> rows.Statement:
    """Both rows are locked, and looked at again as they stand once they are. Endpoints are looked for as of the
    statement's beginning, as when rows are read first."""
    given = ANSWERED.table(dialect)
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


def _closing(dialect: str) -> rows.Statement:
    given = ANSWERED.table(dialect)
    return (
        sa.update(attempts)
        .where(attempts.c.task_id == given.c.id, attempts.c.number == given.c.attempt)
        .values(
            {name: given.c[name] for name in ("http_status", *BILL)}
            | {"outcome": AttemptOutcome.SUCCEEDED, "ended_at": NOW, "error_code": None, "error_message": None}
        )
    )


def _ending(dialect: str) -> rows.Statement:
    given = ANSWERED.table(dialect)
    ended = {
        "state": TaskState.SUCCEEDED,
        "ended_at": NOW,
        "worker_id": None,
        "announced_at": None,
        "reserved_nano": None,
        "reserved_tokens": None,
    }
    return sa.update(tasks).where(tasks.c.id == given.c.id).values(ended)


def _keeping(dialect: str) -> rows.Statement:
    return RESULTS.insert(dialect, task_results)
