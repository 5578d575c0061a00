"""A worker takes tasks: queued rows become its lease, with an open attempt each, in one transaction.

Rows are locked with SKIP LOCKED, in id order: two workers with overlapping hints share the tasks
instead of waiting or deadlocking. (SQLite: the one writing connection.)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.sql.dml import ReturningInsert, ReturningUpdate

from tollgate.domain.routing import Mode, upstream_of
from tollgate.domain.settling import Known
from tollgate.domain.states import AttemptOutcome, OnUncertain, TaskState
from tollgate.domain.values import value
from tollgate.store import leases, rows, webhooks
from tollgate.store.database import ReadConnection, WriteConnection, dialect_of
from tollgate.store.direct import Direct
from tollgate.store.schema import QUEUED_BY_ID, RUNNING_BY_ID, attempts, begins_lines, task_requests, tasks

Polled = Mapping[str, str | None]
"""Upstream -> the key to submit with; None: it is chosen when the call is made."""
NOT_POLLED: Polled = {}


@value
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
    known: Known | None = None
    """None also where it was not asked for."""

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
TOLD = (*RETURNED, "body", "attempt_started_at", *OPENED)
KNOWN = ("project_id", "key_id", "label", "batch_id")
HINDERING = ("charged_to", "callback_url")
"""Where one is set, more must be read to settle the task."""
IDS = rows.Given.of(tasks, "id")
POLLED = rows.Given.of(attempts, "upstream", "credential", name="polled")
HOLDER = sa.bindparam("holder", type_=tasks.c.worker_id.type)
AT = sa.bindparam("at", type_=tasks.c.started_at.type)


async def claim(
    connection: WriteConnection | Direct,
    ids: Sequence[UUID],
    *,
    worker_id: UUID,
    now: datetime,
    polled: Polled = NOT_POLLED,
) -> list[Claimed]:
    """Those of `ids` that were queued and due, now this worker's, by id. Others are somebody's, ended, or not due.

    None for a worker that is not registered, or was declared dead; until the transaction ends it is not. `polled`: the
    upstreams that this worker can ask by submit and poll. The key is committed with the claim, as the request_id is:
    whoever must repeat a submit whose answer is lost has to ask the same account.

    On PostgreSQL it is one statement, so that it can be committed by itself."""
    dialect = dialect_of(connection)
    keys = POLLED.bind(dialect, list(polled.items()))
    given = [(i,) for i in set(ids)]
    if isinstance(connection, Direct) or dialect != "sqlite":
        told = await rows.fetch(connection, _claiming, IDS, given, holder=worker_id, at=now, **keys)
        return [_claimed_and_known(row) for row in told]
    if not await leases.hold(connection, worker_id):
        return []
    found = await rows.execute(connection, _taking, IDS, given, holder=worker_id, at=now)
    taken = list(found.scalars())
    await rows.execute(connection, _opening, IDS, [(i,) for i in taken], holder=worker_id, at=now, **keys)
    return await held(connection, taken, worker_id=worker_id)


def _claimed(row: Sequence[Any]) -> Claimed:
    return Claimed(**_told(row))


def _told(row: Sequence[Any]) -> dict[str, Any]:
    # By position, not by name: an attribute of a row takes ten times as long, and there are twenty a task.
    told = dict(zip(TOLD, row, strict=True))
    told["on_uncertain"] = OnUncertain(told["on_uncertain"])
    return told


def _claimed_and_known(row: Sequence[Any]) -> Claimed:
    *of, project_id, key_id, label, batch_id, hindered = row
    told = _told(of)
    if not hindered:
        told["known"] = Known(
            project_id=project_id,
            key_id=key_id,
            model=told["model"],
            label=label,
            batch_id=batch_id,
            upstream=upstream_of(told["route"]),
            attempt_started_at=told["attempt_started_at"],
        )
    return Claimed(**told)


async def held(connection: ReadConnection, ids: Sequence[UUID], *, worker_id: UUID) -> list[Claimed]:
    """Those of `ids` that this worker holds: what a claim took whose commit was never confirmed."""
    found = (await rows.execute(connection, _held_by, IDS, [(i,) for i in ids], holder=worker_id)).all()
    return [_claimed(row) for row in found]


def _held_by(dialect: str) -> rows.Statement:
    given = IDS.table(dialect)
    return (
        sa.select(
            *(tasks.c[name] for name in RETURNED),
            task_requests.c.body,
            attempts.c.started_at.label("attempt_started_at"),
            *(attempts.c[name] for name in OPENED),
        )
        .join(task_requests, task_requests.c.task_id == tasks.c.id)
        .join(attempts, sa.and_(attempts.c.task_id == tasks.c.id, attempts.c.number == tasks.c.attempt))
        .where(tasks.c.id.in_(sa.select(given.c.id)), RUNNING_BY_ID, tasks.c.worker_id == HOLDER)
        .order_by(tasks.c.id)
    )


def _claiming(dialect: str) -> rows.Statement:
    """PostgreSQL's: all of it. The worker's row is locked before any task's."""
    holder = leases.holding(HOLDER).cte("holder")
    returning = (*RETURNED, *KNOWN, *HINDERING)
    taken = _taking(dialect, sa.exists(sa.select(holder.c.id)), returning=returning).cte("taken")
    opened = _opening(dialect, taken).cte("opened")
    body = sa.select(task_requests.c.body).where(task_requests.c.task_id == taken.c.id).scalar_subquery()
    return (
        sa.select(
            *(taken.c[name] for name in RETURNED),
            body,
            opened.c.started_at,
            *(opened.c[name] for name in OPENED),
            *(taken.c[name] for name in KNOWN),
            sa.or_(*(taken.c[name].is_not(None) for name in HINDERING), webhooks.watching(taken)),
        )
        .join(opened, opened.c.task_id == taken.c.id)
        .order_by(taken.c.id)
    )


def _taking(
    dialect: str, *conditions: sa.ColumnElement[bool], returning: Sequence[str] = ("id",)
) -> ReturningUpdate[*tuple[Any, ...]]:
    free = (
        sa.select(tasks.c.id)
        .where(
            tasks.c.id.in_(sa.select(IDS.table(dialect).c.id)),
            QUEUED_BY_ID,
            tasks.c.not_before <= AT,
            tasks.c.deadline > AT,
            tasks.c.upstream_batch_id.is_(None),
            # A line holds its place in budgets since it was told. What a pause took back is told anew: a hint of before
            # begins nothing.
            sa.or_(tasks.c.batch_id.is_(None), tasks.c.announced_at.is_not(None)),
            begins_lines(tasks.c.batch_id),
            *conditions,
        )
        .order_by(tasks.c.id)
        .with_for_update(skip_locked=True)
        .cte("free")
    )
    return (
        sa.update(tasks)
        .where(tasks.c.id.in_(sa.select(free.c.id)), QUEUED_BY_ID)
        .values(
            state=TaskState.RUNNING,
            fence=tasks.c.fence + 1,
            worker_id=HOLDER,
            started_at=sa.func.coalesce(tasks.c.started_at, AT),
        )
        .returning(*(tasks.c[name] for name in returning))
    )


def _opening(dialect: str, taken: sa.FromClause | None = None) -> ReturningInsert[*tuple[Any, ...]]:
    """A new attempt of each task of `taken`, by default of those given; or the open one once more under this lease: it
    keeps its start, its hour in the accounts."""
    of = tasks if taken is None else taken
    position = sa.func.instr if dialect == "sqlite" else sa.func.strpos
    slash = position(of.c.route + "/", "/")
    upstream = sa.func.substr(of.c.route, 1, slash - 1)
    polled = POLLED.table(dialect)
    values = {
        "task_id": of.c.id,
        "number": of.c.attempt,
        "fence": of.c.fence,
        "worker_id": HOLDER,
        "upstream": upstream,
        "upstream_model": sa.func.substr(of.c.route, slash + 1),
        "mode": sa.case((polled.c.upstream.is_not(None), "async"), else_="direct"),
        # As `upstream_request_id` writes it.
        "request_id": sa.func.replace(sa.cast(of.c.id, sa.Text), "-", "") + "-" + sa.cast(of.c.attempt, sa.Text),
        "outcome": sa.literal(AttemptOutcome.OPEN),
        "tries": sa.literal(1),
        "started_at": AT,
        "credential": polled.c.credential,
    }
    source = sa.select(*values.values()).select_from(
        of.outerjoin(polled, sa.and_(polled.c.upstream == upstream, of.c.mode == "async"))
    )
    if taken is None:
        source = source.where(of.c.id.in_(sa.select(IDS.table(dialect).c.id)))
    insert = rows.insert_into(dialect, attempts).from_select(list(values), source)
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
