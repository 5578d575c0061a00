"""Checks of tasks with their results and attempts: what a transition leaves behind, and what it must not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import sqlalchemy as sa

from tollgate.domain.states import AttemptOutcome, TaskState
from tollgate.store.database import ReadConnection
from tollgate.store.reconcile.checks import COUNTED, TASK_IS_OPEN, Check, count_of
from tollgate.store.schema import attempts, task_results, tasks, workers

TASK_HAS_ENDED = sa.not_(TASK_IS_OPEN)
TASK_RUNS = tasks.c.state == TaskState.RUNNING
TASK_SUCCEEDED = tasks.c.state == TaskState.SUCCEEDED
ATTEMPT_IS_OPEN = attempts.c.outcome == AttemptOutcome.OPEN
TASK = (tasks.c.id.label("task"), tasks.c.state.label("found_state"))
ATTEMPT = (
    attempts.c.task_id.label("task"), attempts.c.number.label("attempt"), attempts.c.outcome.label("found_outcome"),
)  # fmt: skip
RESULTS = sa.outerjoin(tasks, task_results, task_results.c.task_id == tasks.c.id)
WORKERS = sa.outerjoin(tasks, workers, workers.c.id == tasks.c.worker_id)
CURRENT = sa.outerjoin(tasks, attempts, sa.and_(attempts.c.task_id == tasks.c.id, attempts.c.number == tasks.c.attempt))
ALL = sa.join(tasks, attempts, attempts.c.task_id == tasks.c.id)
NAMED = sa.join(tasks, task_results, task_results.c.task_id == tasks.c.id).outerjoin(
    attempts, sa.and_(attempts.c.task_id == tasks.c.id, attempts.c.number == task_results.c.attempt)
)


def _rows(*columns: Any, of: sa.FromClause, where: Any) -> Callable[[ReadConnection], sa.Select[Any]]:
    return lambda _connection: sa.select(*columns).select_from(of).where(where)


CHECKS = (
    Check(
        name="results-of-ended-tasks",
        says="an ended task has a result",
        differences=_rows(*TASK, of=RESULTS, where=sa.and_(TASK_HAS_ENDED, task_results.c.task_id.is_(None))),
        population=count_of(tasks, TASK_HAS_ENDED),
    ),
    Check(
        name="results-of-open-tasks",
        says="a task that is queued or running has no result",
        differences=_rows(*TASK, of=RESULTS, where=sa.and_(TASK_IS_OPEN, task_results.c.task_id.is_not(None))),
        population=count_of(tasks, TASK_IS_OPEN),
    ),
    Check(
        name="workers-of-running-tasks",
        says="a running task is held by a worker that there is, and no other task is",
        differences=_rows(
            *TASK,
            tasks.c.worker_id.label("found_worker"),
            of=WORKERS,
            where=sa.or_(
                sa.and_(TASK_RUNS, workers.c.id.is_(None)), sa.and_(sa.not_(TASK_RUNS), tasks.c.worker_id.is_not(None))
            ),
        ),
        population=count_of(tasks),
    ),
    Check(
        name="attempts-of-running-tasks",
        says="a running task's current attempt is open",
        differences=_rows(
            *TASK,
            tasks.c.attempt.label("attempt"),
            attempts.c.outcome.label("found_outcome"),
            of=CURRENT,
            where=sa.and_(TASK_RUNS, sa.or_(attempts.c.outcome.is_(None), sa.not_(ATTEMPT_IS_OPEN))),
        ),
        population=count_of(tasks, TASK_RUNS),
    ),
    Check(
        name="attempts-of-ended-tasks",
        says="an ended task has no open attempt",
        differences=_rows(
            *TASK, attempts.c.number.label("attempt"), of=ALL, where=sa.and_(TASK_HAS_ENDED, ATTEMPT_IS_OPEN)
        ),
        population=count_of(tasks, TASK_HAS_ENDED),
    ),
    Check(
        name="attempts-of-succeeded-tasks",
        says="a succeeded task's result is the answer of a succeeded attempt",
        differences=_rows(
            tasks.c.id.label("task"),
            task_results.c.attempt.label("attempt"),
            attempts.c.outcome.label("found_outcome"),
            sa.literal(str(AttemptOutcome.SUCCEEDED)).label("expected_outcome"),
            of=NAMED,
            where=sa.and_(
                TASK_SUCCEEDED,
                attempts.c.outcome.is_distinct_from(AttemptOutcome.SUCCEEDED),
            ),
        ),
        population=count_of(tasks, TASK_SUCCEEDED),
    ),
    Check(
        name="costs-of-open-attempts",
        says="an attempt that is open or abandoned costs nothing",
        differences=_rows(
            *ATTEMPT,
            attempts.c.cost_nano.label("found_cost_nano"),
            of=attempts,
            where=sa.and_(sa.not_(COUNTED), attempts.c.cost_nano.is_not(None)),
        ),
        population=count_of(attempts, sa.not_(COUNTED)),
    ),
    Check(
        name="ends-of-attempts",
        says="an attempt has the time of its end if it is closed, and none while it is open",
        differences=_rows(
            *ATTEMPT,
            attempts.c.ended_at.label("found_ended_at"),
            of=attempts,
            where=attempts.c.ended_at.is_(None) != ATTEMPT_IS_OPEN,
        ),
        population=count_of(attempts),
    ),
    Check(
        name="reservations-of-ended-tasks",
        says="an ended task reserves nothing",
        differences=_rows(
            *TASK,
            tasks.c.reserved_nano.label("found_reserved_nano"),
            tasks.c.reserved_tokens.label("found_reserved_tokens"),
            of=tasks,
            where=sa.and_(
                TASK_HAS_ENDED, sa.or_(tasks.c.reserved_nano.is_not(None), tasks.c.reserved_tokens.is_not(None))
            ),
        ),
        population=count_of(tasks, TASK_HAS_ENDED),
    ),
)
