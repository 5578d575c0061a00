"""Reading tasks: one, many by id, or a page of a filtered list. Always within one project."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from tollgate.domain.states import AttemptOutcome, TaskState
from tollgate.store import rows
from tollgate.store.database import ReadConnection
from tollgate.store.schema import attempts, task_requests, task_results, tasks


@dataclass(frozen=True, slots=True, kw_only=True)
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
    price_id: str | None
    price_tier: str | None
    cost_nano: int | None
    cost_estimated: bool
    possible_cost_nano: int | None
    started_at: datetime
    ended_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """A task as its owner sees it. `result` is the upstream's JSON text."""

    id: UUID
    project_id: UUID
    key_id: str
    batch_id: UUID | None
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
    "id", "project_id", "key_id", "batch_id", "custom_id", "request_id", "label", "endpoint", "model", "route", "lane",
    "state", "tries", "not_before", "deadline", "cancel_requested_at", "created_at", "started_at", "ended_at",
    "callback_url",
)  # fmt: skip
IDS = rows.Given.of(tasks, "id")
OWNED = rows.Given.of(tasks, "project_id", "id")
Owned = tuple[UUID, UUID]
"""A project, and the id of a task that it asks for."""
ATTEMPT = tuple(Attempt.__dataclass_fields__)
ANSWER = AttemptOutcome.SUCCEEDED
ANSWERED = attempts.c.outcome == ANSWER


async def by_ids(
    connection: ReadConnection, ids: Sequence[UUID], *, project_id: UUID, with_attempts: bool = True
) -> dict[UUID, Task]:
    """The project's tasks among `ids`, with results, and with attempts where wanted."""
    found = await owned(connection, [(project_id, i) for i in ids], with_attempts=with_attempts)
    return {task_id: task for (_, task_id), task in found.items()}


async def owned(
    connection: ReadConnection, asked: Sequence[Owned], *, with_attempts: bool = True, with_results: bool = True
) -> dict[Owned, Task]:
    """The same of several projects: those of `asked` that are the project's they are asked for."""
    build = _owned if with_results else _owned_without_results
    found = (await rows.execute(connection, build, OWNED, list(dict.fromkeys(asked)))).all()
    bought = await _attempts(connection, [row.id for row in found]) if with_attempts and found else {}
    return {(row.project_id, row.id): _task(row, bought.get(row.id, ())) for row in found}


async def page(
    connection: ReadConnection, *, project_id: UUID, where: Filter, limit: int, after: UUID | None = None
) -> list[Task]:
    """Up to `limit` tasks, newest first, older than `after`: keyset paging on the id, which sorts by time.

    With their results, without their attempts."""
    conditions = [tasks.c.project_id == project_id, *_conditions(where)]
    if after is not None:
        conditions.append(tasks.c.id < after)
    answering = sa.and_(attempts.c.task_id == tasks.c.id, attempts.c.number == task_results.c.attempt, ANSWERED)
    statement = (
        _select(*conditions)
        .add_columns((attempts.c.upstream + "/" + attempts.c.upstream_model).label("answered_by"))
        .outerjoin(attempts, answering)
        .order_by(tasks.c.id.desc())
        .limit(limit)
    )
    return [Task(**_told(row)) for row in (await connection.execute(statement)).all()]


async def ended_among(connection: ReadConnection, ids: Sequence[UUID]) -> set[UUID]:
    """Those of `ids` that have ended: what everyone who waits asks, in one query."""
    return set((await rows.execute(connection, _ended_of, IDS, [(i,) for i in ids])).scalars())


def _ended_of(dialect: str) -> rows.Statement:
    given = IDS.table(dialect)
    return sa.select(tasks.c.id).where(tasks.c.id.in_(sa.select(given.c.id)), tasks.c.ended_at.is_not(None))


def _owned(dialect: str) -> rows.Statement:
    given = OWNED.table(dialect)
    return _select().join(given, sa.and_(tasks.c.id == given.c.id, tasks.c.project_id == given.c.project_id))


def _owned_without_results(dialect: str) -> rows.Statement:
    given = OWNED.table(dialect)
    told = _select(result=sa.null())
    return told.join(given, sa.and_(tasks.c.id == given.c.id, tasks.c.project_id == given.c.project_id))


def _select(*conditions: Any, result: sa.ColumnElement[Any] = task_results.c.body) -> sa.Select[Any]:
    return (
        sa.select(
            *(tasks.c[name] for name in NARROW),
            task_requests.c.metadata,
            result.label("result"),
            task_results.c.error_code,
            task_results.c.error_message,
        )
        .outerjoin(task_requests, task_requests.c.task_id == tasks.c.id)
        .outerjoin(task_results, task_results.c.task_id == tasks.c.id)
        .where(*conditions)
    )


def _conditions(where: Filter) -> list[Any]:
    conditions: list[Any] = []
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


async def _attempts(connection: ReadConnection, ids: Sequence[UUID]) -> dict[UUID, tuple[Attempt, ...]]:
    found: dict[UUID, tuple[Attempt, ...]] = {}
    for task_id, *values in (await rows.execute(connection, _attempts_of, IDS, [(i,) for i in ids])).all():
        told = dict(zip(ATTEMPT, values, strict=True))
        attempt = Attempt(**{**told, "outcome": AttemptOutcome(told["outcome"])})
        found[task_id] = (*found.get(task_id, ()), attempt)
    return found


def _attempts_of(dialect: str) -> rows.Statement:
    return (
        sa.select(attempts.c.task_id, *(attempts.c[name] for name in ATTEMPT))
        .where(attempts.c.task_id.in_(sa.select(IDS.table(dialect).c.id)))
        .order_by(attempts.c.task_id, attempts.c.number)
    )


def _task(row: Any, bought: tuple[Attempt, ...]) -> Task:
    answered_by = next((f"{a.upstream}/{a.upstream_model}" for a in bought if a.outcome is ANSWER), None)
    return Task(**_told(row), attempts=bought, answered_by=answered_by)


def _told(row: Any) -> dict[str, Any]:
    return {**row._mapping, "state": TaskState(row.state)}
