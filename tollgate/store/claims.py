"""A worker takes tasks: queued rows become its lease, with an open attempt each, in one transaction.

Rows are locked with SKIP LOCKED, in id order: two workers with overlapping hints share the tasks
instead of waiting or deadlocking. (SQLite: the one writing connection.)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from tollgate.domain.states import AttemptOutcome, OnUncertain, TaskState
from tollgate.store import rows
from tollgate.store.database import ReadConnection, WriteConnection
from tollgate.store.schema import QUEUED_BY_ID, RUNNING, attempts, task_requests, tasks


@dataclass(frozen=True, slots=True, kw_only=True)
class Claimed:
    """A task under this worker's lease, with all that running it needs."""

    id: UUID
    fence: int
    attempt: int
    tries: int
    """Failed tries so far, over all attempts."""
    endpoint: str
    model: str
    route: str
    lane: str
    body: str
    deadline: datetime
    retry_until: datetime
    on_uncertain: OnUncertain
    prompt_tokens_estimate: int
    max_tokens: int | None
    attempt_started_at: datetime
    """Of the open attempt, perhaps before this lease: the price of that time counts."""
    upstream_id: str | None = None

    @property
    def upstream_request_id(self) -> str:
        return upstream_request_id(self.id, self.attempt)


def upstream_request_id(task_id: UUID, attempt: int) -> str:
    """The same when an attempt is repeated, new for a new purchase. 34 to 37 characters (ZhipuAI: 6 to 64)."""
    return f"{task_id.hex}-{attempt}"


RETURNED = (
    "id", "fence", "attempt", "tries", "endpoint", "model", "route", "lane", "deadline", "retry_until", "on_uncertain",
    "prompt_tokens_estimate", "max_tokens",
)  # fmt: skip


async def claim(connection: WriteConnection, ids: Sequence[UUID], *, worker_id: UUID, now: datetime) -> list[Claimed]:
    """Those of `ids` that were queued and due, now this worker's, by id. Others are somebody's, ended, or not due."""
    taken = await _take(connection, ids, worker_id=worker_id, now=now)
    if not taken:
        return []
    opened = await _open_attempts(connection, taken, worker_id=worker_id, now=now)
    bodies = await _bodies(connection, [row.id for row in taken])
    return [
        Claimed(
            **{name: getattr(row, name) for name in RETURNED if name != "on_uncertain"},
            on_uncertain=OnUncertain(row.on_uncertain),
            body=bodies[row.id],
            attempt_started_at=opened[row.id].started_at,
            upstream_id=opened[row.id].upstream_id,
        )
        for row in taken
    ]


async def held(connection: ReadConnection, ids: Sequence[UUID], *, worker_id: UUID) -> list[Claimed]:
    """Those of `ids` that this worker holds: what a claim took whose commit was never confirmed."""
    given = rows.table_of(connection, {"id": tasks.c.id.type}, [(i,) for i in ids])
    statement = (
        sa.select(
            *(tasks.c[name] for name in RETURNED),
            task_requests.c.body,
            attempts.c.started_at.label("attempt_started_at"),
            attempts.c.upstream_id,
        )
        .join(task_requests, task_requests.c.task_id == tasks.c.id)
        .join(attempts, sa.and_(attempts.c.task_id == tasks.c.id, attempts.c.number == tasks.c.attempt))
        .where(tasks.c.id.in_(sa.select(given.c.id)), tasks.c.state == RUNNING, tasks.c.worker_id == worker_id)
        .order_by(tasks.c.id)
    )
    found = (await connection.execute(statement)).all()
    return [Claimed(**{**row._mapping, "on_uncertain": OnUncertain(row.on_uncertain)}) for row in found]


async def _take(connection: WriteConnection, ids: Sequence[UUID], *, worker_id: UUID, now: datetime) -> list[Any]:
    given = rows.table_of(connection, {"id": tasks.c.id.type}, [(i,) for i in sorted(set(ids))])
    free = (
        sa.select(tasks.c.id)
        .where(
            tasks.c.id.in_(sa.select(given.c.id)),
            QUEUED_BY_ID,
            tasks.c.not_before <= now,
            tasks.c.deadline > now,
        )
        .order_by(tasks.c.id)
        .with_for_update(skip_locked=True)
        .cte("free")
    )
    statement = (
        sa.update(tasks)
        .where(tasks.c.id.in_(sa.select(free.c.id)), QUEUED_BY_ID)
        .values(
            state=TaskState.RUNNING,
            fence=tasks.c.fence + 1,
            worker_id=worker_id,
            started_at=sa.func.coalesce(tasks.c.started_at, sa.literal(now, tasks.c.started_at.type)),
        )
        .returning(*(tasks.c[name] for name in RETURNED))
    )
    return sorted((await connection.execute(statement)).all(), key=lambda row: row.id)


async def _open_attempts(
    connection: WriteConnection, taken: Sequence[Any], *, worker_id: UUID, now: datetime
) -> dict[UUID, Any]:
    """A new attempt, or the open one once more under this lease: it keeps its start, its hour in the accounts."""
    columns = (
        "task_id", "number", "fence", "worker_id", "upstream", "upstream_model", "request_id", "outcome", "tries",
        "started_at",
    )  # fmt: skip
    values = []
    for row in taken:
        upstream, _, upstream_model = row.route.partition("/")
        sent_as = upstream_request_id(row.id, row.attempt)
        values.append(
            (row.id, row.attempt, row.fence, worker_id, upstream, upstream_model, sent_as, AttemptOutcome.OPEN, 1, now)
        )
    insert = rows.insert(connection, attempts, columns, values)
    statement = insert.on_conflict_do_update(
        index_elements=["task_id", "number"],
        set_={"fence": insert.excluded.fence, "worker_id": insert.excluded.worker_id, "tries": attempts.c.tries + 1},
    ).returning(attempts.c.task_id, attempts.c.started_at, attempts.c.upstream_id)
    return {row.task_id: row for row in (await connection.execute(statement)).all()}


async def _bodies(connection: WriteConnection, ids: Sequence[UUID]) -> dict[UUID, str]:
    given = rows.table_of(connection, {"id": tasks.c.id.type}, [(i,) for i in ids])
    statement = sa.select(task_requests.c.task_id, task_requests.c.body).where(
        task_requests.c.task_id.in_(sa.select(given.c.id))
    )
    return {row.task_id: row.body for row in (await connection.execute(statement)).all()}
