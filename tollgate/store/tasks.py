"""Reading tasks: one, many by id, or a page of a filtered list. Always within one project."""

from __future__ import annotations

import itertools
import operator
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from tollgate.domain.errors import InvalidRequestError
from tollgate.domain.retention import ERASED
from tollgate.domain.states import STATUSES, AttemptOutcome, TaskState
from tollgate.domain.values import value
from tollgate.store import rows
from tollgate.store.database import ReadConnection
from tollgate.store.direct import Direct
from tollgate.store.schema import LINE_FAILED, LINE_STANDS, attempts, task_requests, task_results, tasks


@value
class Attempt:
    """One purchase at an upstream, and its bill. Costs in nano-units."""

    number: int
    upstream: str
    upstream_model: str
    mode: str
    request_id: str
    upstream_id: str | None
    outcome: AttemptOutcome
    tries: int
    http_status: int | None
    error_code: str | None
    error_message: str | None
    prompt_tokens: int | None
    cached_tokens: int | None
    completion_tokens: int | None
    engine_us: int | None
    """Its share of a local engine's time."""
    price_id: str | None
    price_tier: str | None
    cost_nano: int | None
    cost_estimated: bool
    possible_cost_nano: int | None
    started_at: datetime
    ended_at: datetime | None


@value
class Task:
    """A task as its owner sees it. `result` is the upstream's JSON text."""

    id: UUID
    project_id: UUID
    key_id: str
    batch_id: UUID | None
    line: int | None
    """Of its batch's input, from 1."""
    custom_id: str | None
    request_id: str | None
    label: str | None
    endpoint: str
    model: str
    route: str
    lane: str
    state: TaskState
    tries: int
    not_before: datetime
    deadline: datetime
    cancel_requested_at: datetime | None
    created_at: datetime
    started_at: datetime | None
    ended_at: datetime | None
    callback_url: str | None = None
    metadata: str | None = None
    result: str | None = None
    error_code: str | None = None
    error_message: str | None = None
    erased: bool = False
    """Its answer, or the message of its error, is there no more."""
    prompt_erased: bool = False
    """Nor is what was asked, and its metadata."""
    attempts: tuple[Attempt, ...] = ()
    answered_by: str | None = None
    """Upstream and model there, `zhipu/glm-4.7`, of the attempt that answered; None: none has."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """Of a list; None: any. `created_from` inclusive, `created_to` exclusive."""

    states: frozenset[TaskState] | None = None
    model: str | None = None
    label: str | None = None
    batch_id: UUID | None = None
    custom_id: str | None = None
    request_id: str | None = None
    created_from: datetime | None = None
    created_to: datetime | None = None


NARROW = (
    "id", "project_id", "key_id", "batch_id", "line", "custom_id", "request_id", "label", "endpoint", "model", "route",
    "lane", "state", "tries", "not_before", "deadline", "cancel_requested_at", "created_at", "started_at", "ended_at",
    "callback_url",
)  # fmt: skip
TOLD = (*NARROW, "metadata", "result", "error_code", "error_message", "erased", "prompt_erased")
IDS = rows.Given.of(tasks, "id")
OWNED = rows.Given.of(tasks, "project_id", "id")
Owned = tuple[UUID, UUID]
"""A project, and the id of a task that it asks for."""
ATTEMPT = tuple(Attempt.__dataclass_fields__)
ANSWER = AttemptOutcome.SUCCEEDED
ANSWERED = attempts.c.outcome == ANSWER


async def by_ids(connection: ReadConnection, ids: Sequence[UUID], *, project_id: UUID) -> dict[UUID, Task]:
    """The project's tasks among `ids`, by id, with results and attempts."""
    found = await owned(connection, [(project_id, i) for i in ids])
    return {task_id: task for (_, task_id), task in found.items()}


async def owned(
    connection: ReadConnection | Direct, asked: Sequence[Owned], *, with_results: bool = True
) -> dict[Owned, Task]:
    """The same of several projects: those of `asked` that are the project's they are asked for."""
    build = _owned if with_results else _owned_without_results
    found = await rows.fetch(connection, build, OWNED, list(dict.fromkeys(asked)))
    told = [_task(list(same)) for _, same in itertools.groupby(found, key=operator.itemgetter(0))]
    return {(one.project_id, one.id): one for one in told}


async def page(
    connection: ReadConnection, *, project_id: UUID, where: Filter, limit: int, after: UUID | None = None
) -> list[Task]:
    """Up to `limit` tasks, newest first, older than `after`: keyset paging on the id, which sorts by time.

    Those of one batch come in the order of its input, each line once, as what it is now. With their results, without
    their attempts. Raises InvalidRequestError where `after` is none of the batch's."""
    conditions = [tasks.c.project_id == project_id, *_conditions(where)]
    if after is not None:
        conditions.append(tasks.c.id < after if where.batch_id is None else await _past(connection, after, where))
    answering = sa.and_(attempts.c.task_id == tasks.c.id, attempts.c.number == task_results.c.attempt, ANSWERED)
    statement = (
        _select()
        .where(*conditions)
        .add_columns((attempts.c.upstream + "/" + attempts.c.upstream_model).label("answered_by"))
        .outerjoin(attempts, answering)
        .order_by(tasks.c.id.desc() if where.batch_id is None else tasks.c.line)
        .limit(limit)
    )
    found = (await connection.execute(statement)).all()
    return [Task(**{**row._mapping, "state": TaskState(row.state)}) for row in found]


async def _past(connection: ReadConnection, after: UUID, where: Filter) -> sa.ColumnElement[bool]:
    """Also after a task of a line that has been tried again since."""
    statement = sa.select(tasks.c.line).where(tasks.c.id == after, tasks.c.batch_id == where.batch_id)
    line = (await connection.execute(statement)).scalar()
    if line is None:
        raise InvalidRequestError(f"after: {after} is no task of batch {where.batch_id}", field="after")
    past: sa.ColumnElement[bool] = tasks.c.line > line
    return past


async def ended_among(connection: ReadConnection | Direct, ids: Sequence[UUID]) -> set[UUID]:
    """Those of `ids` that have ended: what everyone who waits asks, in one query."""
    return {ended for (ended,) in await rows.fetch(connection, _ended_of, IDS, [(i,) for i in ids])}


def _ended_of(dialect: str) -> rows.Statement:
    given = IDS.table(dialect)
    return sa.select(tasks.c.id).where(tasks.c.id.in_(sa.select(given.c.id)), tasks.c.ended_at.is_not(None))


def _owned(dialect: str) -> rows.Statement:
    return _with_attempts(dialect, task_results.c.body)


def _owned_without_results(dialect: str) -> rows.Statement:
    return _with_attempts(dialect, sa.null())


def _with_attempts(dialect: str, result: sa.ColumnElement[Any]) -> rows.Statement:
    """A row for each attempt, and one for a task without any. The answer, which may be long, is in the first alone."""
    given = OWNED.table(dialect)
    first = sa.func.coalesce(attempts.c.number, 1) == 1
    return (
        _select(sa.case((first, result)))
        .add_columns(*(attempts.c[name] for name in ATTEMPT))
        .join(given, sa.and_(tasks.c.id == given.c.id, tasks.c.project_id == given.c.project_id))
        .outerjoin(attempts, attempts.c.task_id == tasks.c.id)
        .order_by(tasks.c.id, attempts.c.number)
    )


def _select(result: sa.ColumnElement[Any] = task_results.c.body) -> sa.Select[Any]:
    return (
        sa.select(
            *(tasks.c[name] for name in NARROW),
            task_requests.c.metadata,
            result.label("result"),
            sa.func.nullif(task_results.c.error_code, sa.literal_column(f"'{ERASED}'")).label("error_code"),
            task_results.c.error_message,
            sa.func.coalesce(task_results.c.erased, sa.false()).label("erased"),
            task_requests.c.task_id.is_(None).label("prompt_erased"),
        )
        .outerjoin(task_requests, task_requests.c.task_id == tasks.c.id)
        .outerjoin(task_results, task_results.c.task_id == tasks.c.id)
    )


def _conditions(where: Filter) -> list[Any]:
    conditions: list[Any] = []
    if where.batch_id is not None:
        conditions.append(LINE_FAILED if where.states and where.states <= STATUSES["FAIL"] else LINE_STANDS)
    if where.states is not None:
        conditions.append(tasks.c.state.in_(sorted(where.states)))
    for name in ("model", "label", "batch_id", "custom_id", "request_id"):
        if (value := getattr(where, name)) is not None:
            conditions.append(tasks.c[name] == value)
    if where.created_from is not None:
        conditions.append(tasks.c.created_at >= where.created_from)
    if where.created_to is not None:
        conditions.append(tasks.c.created_at < where.created_to)
    return conditions


def _task(found: Sequence[Sequence[Any]]) -> Task:
    """Of the rows of one task. By position: an attribute of a row takes ten times as long."""
    bought = tuple(_attempt(row[len(TOLD) :]) for row in found if row[len(TOLD)] is not None)
    answered_by = next((f"{a.upstream}/{a.upstream_model}" for a in bought if a.outcome is ANSWER), None)
    told = dict(zip(TOLD, found[0], strict=False))
    return Task(**{**told, "state": TaskState(told["state"])}, attempts=bought, answered_by=answered_by)


def _attempt(values: Sequence[Any]) -> Attempt:
    told = dict(zip(ATTEMPT, values, strict=True))
    return Attempt(**{**told, "outcome": AttemptOutcome(told["outcome"])})
