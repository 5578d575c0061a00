"""What was measured of a model and of a route: its newest answers in a project, and how fast it runs now.

Read by an index and within bounds, however many tasks there are.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from uuid import UUID

import sqlalchemy as sa

from tollgate.domain.estimates import Speed
from tollgate.domain.experience import Sample
from tollgate.domain.ids import first_of
from tollgate.domain.states import AttemptOutcome, TaskState
from tollgate.store import rows
from tollgate.store.database import ReadConnection
from tollgate.store.leases import SETTLED_WITHIN_S, WorkerRow
from tollgate.store.schema import attempts, tasks

IDS = rows.Given.of(tasks, "id")
MOST = 1_000
"""Answers that are looked at: the tenth of them is known to a few in a hundred."""
WALKED = 5_000
"""Tasks of the project that are passed by in search of them, from each of these ages on."""
AGES = (timedelta(0), timedelta(hours=1), timedelta(days=1), timedelta(days=7))
"""The newest tasks of all may be half a million lines that only just came in."""


async def answers(
    connection: ReadConnection, *, project_id: UUID, models: Sequence[str], now: datetime, most: int = MOST
) -> list[Sample]:
    """The project's newest answers by a model of these names, so many at most."""
    estimates: dict[UUID, int] = {}
    for age in AGES:
        statement = _succeeded(project_id, models, older_than=now - age if age else None, most=most)
        for row in (await connection.execute(statement)).all():
            estimates[row.id] = row.prompt_tokens_estimate
        if len(estimates) >= most:
            break
    # Attempts are asked for by themselves: joined, they would all be read to hash them.
    given = [(task_id,) for task_id in list(estimates)[:most]]
    return [
        Sample(
            prompt_tokens=row.prompt_tokens,
            prompt_tokens_estimate=estimates[row.task_id],
            completion_tokens=row.completion_tokens,
            seconds=(row.ended_at - row.started_at).total_seconds(),
            engine_us=row.engine_us or 0,
        )
        for row in (await rows.execute(connection, _answers, IDS, given)).all()
    ]


def _succeeded(
    project_id: UUID, models: Sequence[str], *, older_than: datetime | None, most: int
) -> sa.Select[tuple[UUID, int]]:
    walked = (
        sa.select(tasks.c.id, tasks.c.model, tasks.c.state, tasks.c.prompt_tokens_estimate)
        .where(tasks.c.project_id == project_id, *([tasks.c.id < first_of(older_than)] if older_than else []))
        .order_by(tasks.c.id.desc())
        .limit(WALKED)
        .subquery()
    )
    return (
        sa.select(walked.c.id, walked.c.prompt_tokens_estimate)
        .where(walked.c.state == TaskState.SUCCEEDED, walked.c.model.in_(models))
        .order_by(walked.c.id.desc())
        .limit(most)
    )


def _answers(dialect: str) -> rows.Statement:
    return sa.select(
        attempts.c.task_id,
        attempts.c.started_at,
        attempts.c.ended_at,
        attempts.c.prompt_tokens,
        attempts.c.completion_tokens,
        attempts.c.engine_us,
    ).where(
        attempts.c.task_id.in_(sa.select(IDS.table(dialect).c.id)),
        attempts.c.outcome == AttemptOutcome.SUCCEEDED,
        attempts.c.prompt_tokens.is_not(None),
        attempts.c.completion_tokens.is_not(None),
    )


def speeds(workers: Iterable[WorkerRow]) -> dict[str, Speed]:
    """By route, of all that any of the workers has met."""
    found: dict[str, Speed] = {}
    for worker in workers:
        for route, load in worker.load.items():
            known = found.get(route, Speed())
            found[route] = Speed(
                settled_per_s=known.settled_per_s + load.settled / SETTLED_WITHIN_S,
                free=known.free + load.free,
                workers=known.workers + 1,
            )
    return found
