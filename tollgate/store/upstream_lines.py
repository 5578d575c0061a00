"""The lines of an upstream batch: what is sent of them, and those that an answer is for, or that none came for."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from tollgate.domain.states import AttemptOutcome, OnUncertain, TaskState
from tollgate.domain.values import value
from tollgate.store import rows
from tollgate.store.claims import upstream_request_id
from tollgate.store.database import ReadConnection
from tollgate.store.schema import QUEUED, attempts, task_requests, tasks

AT_ONCE = 1_000
KEYS = rows.Given.of(attempts, "task_id", "number")
TOLD = (
    "id", "line", "fence", "tries", "route", "retry_until", "on_uncertain", "prompt_tokens_estimate", "max_tokens",
    "assumed_max_tokens", "refused_attempts", "state",
)  # fmt: skip


@value
class Line:
    """A line and its attempt, with all that settling needs to know (`worker.billing.Leased`)."""

    id: UUID
    line: int
    fence: int
    attempt: int
    tries: int
    route: str
    retry_until: datetime
    on_uncertain: OnUncertain
    prompt_tokens_estimate: int
    max_tokens: int | None
    assumed_max_tokens: int
    refused_attempts: int
    attempt_started_at: datetime
    mode: str
    upstream_id: str | None
    unanswered: int
    state: TaskState


@value
class Sent:
    """What a line's place in the file is made of."""

    line: int
    custom_id: str
    body: str


async def to_send(connection: ReadConnection, upstream_batch_id: UUID, *, after: int) -> list[Sent]:
    """Up to AT_ONCE lines after `after` that nobody ended meanwhile."""
    statement = (
        sa.select(tasks.c.id, tasks.c.line, tasks.c.attempt, task_requests.c.body)
        .join(task_requests, task_requests.c.task_id == tasks.c.id)
        .where(tasks.c.upstream_batch_id == upstream_batch_id, tasks.c.line > after, (tasks.c.state + "") == QUEUED)
        .order_by(tasks.c.line)
        .limit(AT_ONCE)
    )
    found = (await connection.execute(statement)).all()
    return [Sent(line=r.line, custom_id=upstream_request_id(r.id, r.attempt), body=r.body) for r in found]


async def answered(
    connection: ReadConnection, upstream_batch_id: UUID, keys: Sequence[tuple[UUID, int]]
) -> dict[tuple[UUID, int], Line]:
    """Those of these tasks and attempts that are lines of the upstream batch, and whose attempt is not settled yet."""
    found = await rows.execute(connection, _answered, KEYS, keys, upstream_batch=upstream_batch_id)
    return {(row.id, row.attempt): _line(row) for row in found.all()}


def _answered(dialect: str) -> rows.Statement:
    given = KEYS.table(dialect)
    named = sa.and_(attempts.c.task_id == given.c.task_id, attempts.c.number == given.c.number)
    return _lines(given.join(attempts, named).join(tasks, tasks.c.id == attempts.c.task_id)).where(
        tasks.c.upstream_batch_id == sa.bindparam("upstream_batch", type_=tasks.c.upstream_batch_id.type)
    )


async def unanswered(connection: ReadConnection, upstream_batch_id: UUID, *, after: int) -> list[Line]:
    """Up to AT_ONCE lines after `after` that wait for their answer still, or ended without it."""
    waits = sa.and_((tasks.c.state + "") == QUEUED, attempts.c.outcome == AttemptOutcome.OPEN)
    ended = sa.and_(
        tasks.c.state.in_((TaskState.CANCELLED, TaskState.EXPIRED)), attempts.c.outcome == AttemptOutcome.UNCERTAIN
    )
    current = sa.and_(attempts.c.task_id == tasks.c.id, attempts.c.number == tasks.c.attempt)
    statement = (
        _lines(tasks.join(attempts, current))
        .where(tasks.c.upstream_batch_id == upstream_batch_id, tasks.c.line > after, sa.or_(waits, ended))
        .order_by(tasks.c.line)
        .limit(AT_ONCE)
    )
    return [_line(row) for row in (await connection.execute(statement)).all()]


def _lines(source: sa.FromClause) -> sa.Select[Any]:
    return (
        sa.select(
            *(tasks.c[name] for name in TOLD),
            attempts.c.number.label("attempt"),
            attempts.c.started_at.label("attempt_started_at"),
            *(attempts.c[name] for name in ("mode", "upstream_id", "unanswered")),
        )
        .select_from(source)
        .where(attempts.c.outcome.in_((AttemptOutcome.OPEN, AttemptOutcome.UNCERTAIN)))
    )


def _line(row: Any) -> Line:
    told = dict(row._mapping)
    return Line(**{**told, "on_uncertain": OnUncertain(row.on_uncertain), "state": TaskState(row.state)})
