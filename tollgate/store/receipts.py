"""The upstream's ids of calls that are polled: committed before the first poll, so that any worker can take it up.

An id is a fact about a purchase, whoever holds its task by then: it is not fenced, only never overwritten.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

import sqlalchemy as sa

from tollgate.domain.states import AttemptOutcome
from tollgate.store import rows
from tollgate.store.database import WriteConnection
from tollgate.store.schema import attempts, tasks

NAMED = ("upstream_id", "credential")
POSSIBLE = ("price_id", "possible_cost_nano", "possible_tokens")
IDS = rows.Given.of(tasks, "id")
RECEIPTS = rows.Given.of(attempts, "task_id", "number", *NAMED, *POSSIBLE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """The upstream took a call. The costs are the most it may come to, in nano-units and tokens."""

    task_id: UUID
    attempt: int
    upstream_id: str
    credential: str
    price_id: str | None
    possible_cost_nano: int | None
    possible_tokens: int | None


async def keep(connection: WriteConnection, receipts: Sequence[Receipt]) -> None:
    """Note the ids. What it may cost is noted of open attempts only: a closed one's is in the accounts."""
    await _lock(connection, [receipt.task_id for receipt in receipts])
    values = [(r.task_id, r.attempt, *(getattr(r, name) for name in (*NAMED, *POSSIBLE))) for r in receipts]
    await rows.execute(connection, _noting, RECEIPTS, values)


def _noting(dialect: str) -> rows.Statement:
    given = RECEIPTS.table(dialect)
    is_open = attempts.c.outcome == AttemptOutcome.OPEN
    noted = {name: sa.case((is_open, given.c[name]), else_=attempts.c[name]) for name in POSSIBLE}
    return (
        sa.update(attempts)
        .where(
            attempts.c.task_id == given.c.task_id,
            attempts.c.number == given.c.number,
            attempts.c.upstream_id.is_(None),
            attempts.c.outcome.in_((AttemptOutcome.OPEN, AttemptOutcome.UNCERTAIN)),
        )
        .values({name: given.c[name] for name in NAMED} | noted)
    )


async def _lock(connection: WriteConnection, ids: Sequence[UUID]) -> None:
    """In id order, as whoever settles does."""
    await rows.execute(connection, _locking, IDS, [(i,) for i in sorted(ids)])


def _locking(dialect: str) -> rows.Statement:
    given = IDS.table(dialect)
    return sa.select(tasks.c.id).where(tasks.c.id.in_(sa.select(given.c.id))).order_by(tasks.c.id).with_for_update()
