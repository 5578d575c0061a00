"""Batches against their lines: what the sums say that they came to, and how many there are."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from tollgate.domain.states import TaskState
from tollgate.store.database import ReadConnection
from tollgate.store.reconcile.checks import COUNTED, Check, count_of
from tollgate.store.reconcile.roll_up import OF_A_TASK, OF_AN_ATTEMPT, compared, names, one_if, summed
from tollgate.store.schema import BATCH_COUNTS, attempts, batch_sums, batches, invalid_lines, projects, tasks

GROUP = ("batch_id",)
LINES = ("accepted", "invalid")
OF_A_LINE = OF_A_TASK | {
    "tasks_cancelled": one_if(tasks.c.state == TaskState.CANCELLED),
    "tasks_expired": one_if(tasks.c.state == TaskState.EXPIRED),
}
IS_LINE = tasks.c.batch_id.is_not(None)
STANDS = sa.not_(tasks.c.superseded)


def _sums(_: ReadConnection) -> sa.Select[Any]:
    """A line that was tried again counts as what it is now; what was bought for it before counts on."""
    booked = {name: batch_sums.c[name] for name in BATCH_COUNTS}
    of_attempts = summed("expected", {"batch_id": tasks.c.batch_id}, OF_AN_ATTEMPT, counts=BATCH_COUNTS)
    of_ends = summed("expected", {"batch_id": tasks.c.batch_id}, OF_A_LINE, counts=BATCH_COUNTS)
    return _with_names(
        compared(
            GROUP,
            summed("found", {"batch_id": batch_sums.c.batch_id}, booked, counts=BATCH_COUNTS),
            of_attempts.join_from(attempts, tasks, tasks.c.id == attempts.c.task_id).where(COUNTED, IS_LINE),
            of_ends.where(tasks.c.ended_at.is_not(None), IS_LINE, STANDS),
            counts=BATCH_COUNTS,
        ),
        BATCH_COUNTS,
    )


def _lines(_: ReadConnection) -> sa.Select[Any]:
    one: sa.ColumnElement[int] = sa.literal_column("1")
    told = {name: batches.c[name] for name in LINES}
    return _with_names(
        compared(
            GROUP,
            summed("found", {"batch_id": batches.c.id}, told, counts=LINES),
            summed("expected", {"batch_id": tasks.c.batch_id}, {"accepted": one}, counts=LINES).where(IS_LINE, STANDS),
            summed("expected", {"batch_id": invalid_lines.c.batch_id}, {"invalid": one}, counts=LINES),
            counts=LINES,
        ),
        LINES,
    )


def _with_names(differing: sa.Subquery, counts: tuple[str, ...]) -> sa.Select[Any]:
    return (
        sa.select(
            batches.c.id.label("batch"),
            projects.c.name.label("project"),
            *(differing.c[name] for name in (*names("found", counts), *names("expected", counts))),
        )
        .join_from(differing, batches, batches.c.id == differing.c.batch_id)
        .join(projects, projects.c.id == batches.c.project_id)
    )


def _ended_early(_: ReadConnection) -> sa.Select[Any]:
    with_open_lines = sa.select(tasks.c.batch_id).where(IS_LINE, tasks.c.ended_at.is_(None))
    return sa.select(batches.c.id.label("batch"), batches.c.state.label("found_state")).where(
        batches.c.ended_at.is_not(None), batches.c.id.in_(with_open_lines)
    )


CHECKS = (
    Check(
        name="batch-sums",
        says="a batch's sums are those of its lines and of their attempts",
        differences=_sums,
        population=count_of(batch_sums),
    ),
    Check(
        name="batch-lines",
        says="a batch has as many tasks and invalid lines as it says",
        differences=_lines,
        population=count_of(batches),
    ),
    Check(
        name="lines-of-ended-batches",
        says="no line of a batch that ended is open",
        differences=_ended_early,
        population=count_of(batches, batches.c.ended_at.is_not(None)),
    ),
)
