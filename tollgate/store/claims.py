"""A worker takes tasks: queued rows become its lease, with an open attempt each, in one transaction.

Rows are locked with SKIP LOCKED, in id order: two workers with overlapping hints share the tasks
instead of waiting or deadlocking. (SQLite: the one writing connection.)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from tollgate.domain.routing import Mode
from tollgate.domain.states import AttemptOutcome, OnUncertain, TaskState
from tollgate.store import rows
from tollgate.store.database import ReadConnection, WriteConnection
from tollgate.store.schema import QUEUED_BY_ID, RUNNING, attempts, task_requests, tasks

Polled = Mapping[str, str | None]
"""Upstream -> the key to submit with; None: it is chosen when the call is made."""
NOT_POLLED: Polled = {}


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
    assumed_max_tokens: int
    """Of a completion, where `max_tokens` is None."""
    attempt_started_at: datetime
    """Of the open attempt, perhaps before this lease: the price of that time counts."""
    mode: Mode = "direct"
    streamed: bool = False
    upstream_id: str | None = None
    """Of a call that was submitted before: it is polled on, not bought again."""
    credential: str | None = None
    """The name of the key that `upstream_id` belongs to."""
    unanswered: int = 0
    """Sends of this attempt whose answer never came."""
    route_tries: int = 0
    """Failed tries on this route that count towards leaving it."""
    refused_attempts: int = 0
    """Attempts before this one that bought nothing."""

    @property
    def upstream_request_id(self) -> str:
        return upstream_request_id(self.id, self.attempt)


def upstream_request_id(task_id: UUID, attempt: int) -> str:
    """The same when an attempt is repeated, new for a new purchase. 34 to 37 characters (ZhipuAI: 6 to 64)."""
    return f"{task_id.hex}-{attempt}"


RETURNED = (
    "id", "fence", "attempt", "tries", "endpoint", "model", "route", "lane", "deadline", "retry_until", "on_uncertain",
    "prompt_tokens_estimate", "max_tokens", "assumed_max_tokens", "mode", "streamed", "route_tries", "refused_attempts",
)  # fmt: skip
OPENED = ("upstream_id", "credential", "unanswered")
"""Of the attempt."""
IDS = rows.Given.of(tasks, "id")
ATTEMPTS = rows.Given.of(
    attempts,
    "task_id", "number", "fence", "worker_id", "upstream", "upstream_model", "mode", "request_id", "outcome",
    "tries", "started_at", "credential",
)  # fmt: skip


async def claim(
    connection: WriteConnection,
    ids: Sequence[UUID],
    *,
    worker_id: UUID,
    now: datetime,
    polled: Polled = NOT_POLLED,
) -> list[Claimed]:
    """Those of `ids` that were queued and due, now this worker's, by id. Others are somebody's, ended, or not due.

    `polled`: the upstreams that this worker can ask by submit and poll. The key is committed with the claim, as the
    request_id is: whoever must repeat a submit whose answer is lost has to ask the same account."""
    taken = await _take(connection, ids, worker_id=worker_id, now=now)
    if not taken:
        return []
    opened = await _open_attempts(connection, taken, worker_id=worker_id, now=now, polled=polled)
    return [_claimed(row, opened[row.id]) for row in taken]


def _claimed(row: Any, opened: Any) -> Claimed:
    # By position, not by name: an attribute of a row takes ten times as long, and there are twenty a task.
    told = dict(zip((*RETURNED, "body"), row, strict=True))
    told["on_uncertain"] = OnUncertain(row.on_uncertain)
    _, started_at, *attempt = opened
    return Claimed(**told, attempt_started_at=started_at, **dict(zip(OPENED, attempt, strict=True)))


async def held(connection: ReadConnection, ids: Sequence[UUID], *, worker_id: UUID) -> list[Claimed]:
    """Those of `ids` that this worker holds: what a claim took whose commit was never confirmed."""
    found = (await rows.execute(connection, _held_by, IDS, [(i,) for i in ids], holder=worker_id)).all()
    return [Claimed(**{**row._mapping, "on_uncertain": OnUncertain(row.on_uncertain)}) for row in found]


def _held_by(dialect: str) -> rows.Statement:
    given = IDS.table(dialect)
    holder = sa.bindparam("holder", type_=tasks.c.worker_id.type)
    return (
        sa.select(
            *(tasks.c[name] for name in RETURNED),
            task_requests.c.body,
            attempts.c.started_at.label("attempt_started_at"),
            *(attempts.c[name] for name in OPENED),
        )
        .join(task_requests, task_requests.c.task_id == tasks.c.id)
        .join(attempts, sa.and_(attempts.c.task_id == tasks.c.id, attempts.c.number == tasks.c.attempt))
        .where(tasks.c.id.in_(sa.select(given.c.id)), tasks.c.state == RUNNING, tasks.c.worker_id == holder)
        .order_by(tasks.c.id)
    )


async def _take(connection: WriteConnection, ids: Sequence[UUID], *, worker_id: UUID, now: datetime) -> list[Any]:
    values = [(i,) for i in sorted(set(ids))]
    found = await rows.execute(connection, _taking, IDS, values, holder=worker_id, at=now)
    return sorted(found.all(), key=lambda row: row.id)


def _taking(dialect: str) -> rows.Statement:
    given = IDS.table(dialect)
    at = sa.bindparam("at", type_=tasks.c.started_at.type)
    free = (
        sa.select(tasks.c.id)
        .where(
            tasks.c.id.in_(sa.select(given.c.id)),
            QUEUED_BY_ID,
            tasks.c.not_before <= at,
            tasks.c.deadline > at,
        )
        .order_by(tasks.c.id)
        .with_for_update(skip_locked=True)
        .cte("free")
    )
    body = sa.select(task_requests.c.body).where(task_requests.c.task_id == rows.returned(tasks.c.id)).scalar_subquery()
    return (
        sa.update(tasks)
        .where(tasks.c.id.in_(sa.select(free.c.id)), QUEUED_BY_ID)
        .values(
            state=TaskState.RUNNING,
            fence=tasks.c.fence + 1,
            worker_id=sa.bindparam("holder", type_=tasks.c.worker_id.type),
            started_at=sa.func.coalesce(tasks.c.started_at, at),
        )
        .returning(*(tasks.c[name] for name in RETURNED), body)
    )


async def _open_attempts(
    connection: WriteConnection,
    taken: Sequence[Any],
    *,
    worker_id: UUID,
    now: datetime,
    polled: Polled,
) -> dict[UUID, Any]:
    """A new attempt, or the open one once more under this lease: it keeps its start, its hour in the accounts."""
    values = []
    for row in taken:
        upstream, _, upstream_model = row.route.partition("/")
        mode = "async" if row.mode == "async" and upstream in polled else "direct"
        sent_as = upstream_request_id(row.id, row.attempt)
        values.append(
            (
                row.id, row.attempt, row.fence, worker_id, upstream, upstream_model, mode, sent_as,
                AttemptOutcome.OPEN, 1, now, polled[upstream] if mode == "async" else None,
            )
        )  # fmt: skip
    found = await rows.execute(connection, _opening, ATTEMPTS, values)
    return {row.task_id: row for row in found.all()}


def _opening(dialect: str) -> rows.Statement:
    insert = ATTEMPTS.insert(dialect, attempts)
    bought = sa.or_(attempts.c.upstream_id.is_not(None), attempts.c.unanswered > 0)
    return insert.on_conflict_do_update(
        index_elements=["task_id", "number"],
        set_={
            "fence": insert.excluded.fence,
            "worker_id": insert.excluded.worker_id,
            "tries": attempts.c.tries + 1,
            "mode": sa.case((bought, attempts.c.mode), else_=insert.excluded.mode),
            "credential": sa.case((bought, attempts.c.credential), else_=insert.excluded.credential),
        },
    ).returning(attempts.c.task_id, attempts.c.started_at, *(attempts.c[name] for name in OPENED))
