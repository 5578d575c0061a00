"""The hourly roll-up against the rows it sums up: attempts by the hour of their start, tasks by that of their end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from tollgate.domain.states import AttemptOutcome, TaskState
from tollgate.store.database import ReadConnection, dialect_of
from tollgate.store.reconcile.checks import COUNTED, Check, count_of
from tollgate.store.schema import (
    USAGE_COUNTS,
    USAGE_KEY,
    Instant,
    attempts,
    projects,
    task_results,
    tasks,
    usage_hourly,
)

GROUP = tuple(name for name in USAGE_KEY if name != "shard")
BILLED = ("prompt_tokens", "cached_tokens", "completion_tokens", "engine_us", "cost_nano", "possible_cost_nano")
"""Columns of attempts and of their sums."""
Sums = dict[str, Any]
"""Column of the roll-up -> what a row adds to it; columns not named: 0."""


def one_if(condition: Any) -> sa.ColumnElement[int]:
    return sa.case((condition, 1), else_=0)


OF_AN_ATTEMPT: Sums = {
    "attempts": sa.literal_column("1"),
    "attempts_failed": one_if(attempts.c.outcome == AttemptOutcome.FAILED),
    "attempts_uncertain": one_if(attempts.c.outcome == AttemptOutcome.UNCERTAIN),
    "attempts_unpriced": one_if(sa.and_(attempts.c.prompt_tokens.is_not(None), attempts.c.cost_nano.is_(None))),
    "attempts_estimated": one_if(attempts.c.cost_estimated),
    **{name: sa.func.coalesce(attempts.c[name], 0) for name in BILLED},
}
"""As `domain.settling.contribution`, of closed attempts."""
OF_A_TASK: Sums = {
    "tasks_succeeded": one_if(tasks.c.state == TaskState.SUCCEEDED),
    "tasks_failed": one_if(tasks.c.state != TaskState.SUCCEEDED),
}


def differences(connection: ReadConnection) -> sa.Select[Any]:
    """The groups of the roll-up that are not the sums of their rows; also such as one side alone has."""
    differing = compared(GROUP, _booked(), _of_attempts(connection), _of_ends(connection))
    return with_names(differing, {name: differing.c[name] for name in GROUP})


def compared(group: Sequence[str], *sides: sa.Select[Any], counts: Sequence[str] = USAGE_COUNTS) -> sa.Subquery:
    """The groups in which what the `sides` found is not what they expected; each has sums of one kind."""
    both = sa.union_all(*sides).subquery("sides")
    found, expected = names("found", counts), names("expected", counts)
    sums = {name: sa.func.sum(both.c[name]) for name in (*found, *expected)}
    return (
        sa.select(*(both.c[name] for name in group), *(sums[name].label(name) for name in sums))
        .group_by(*(both.c[name] for name in group))
        .having(sa.or_(*(sums[one] != sums[other] for one, other in zip(found, expected, strict=True))))
        .subquery("groups")
    )


def with_names(differing: sa.Subquery, keys: Mapping[str, Any]) -> sa.Select[Any]:
    """A check's differences: where, in the words of `Check`, and what was found and expected."""
    shown = {"project_id": projects.c.name.label("project")}
    if "key_id" in keys:
        shown["key_id"] = keys["key_id"].label("key")
    sums = (differing.c[name] for name in (*names("found"), *names("expected")))
    return sa.select(*(shown.get(name, key) for name, key in keys.items()), *sums).join_from(
        differing, projects, projects.c.id == differing.c.project_id
    )


CHECK = Check(
    name="roll-up",
    says="the hourly roll-up is the sum over attempts and ended tasks",
    differences=differences,
    population=count_of(usage_hourly),
)


def names(side: str, counts: Sequence[str] = USAGE_COUNTS) -> list[str]:
    """Of the columns that hold one side's sums."""
    return [f"{side}_{name}" for name in counts]


def _booked() -> sa.Select[Any]:
    return of_rows("found", usage_hourly, {name: usage_hourly.c[name] for name in GROUP})


def of_rows(side: str, table: sa.Table, keys: Mapping[str, Any]) -> sa.Select[Any]:
    """One side: the rows of a roll-up, summed up by `keys`."""
    return summed(side, keys, {name: table.c[name] for name in USAGE_COUNTS})


def _of_attempts(connection: ReadConnection) -> sa.Select[Any]:
    keys = _keys(connection, attempts.c.started_at, upstream=attempts.c.upstream)
    source = sa.join(attempts, tasks, tasks.c.id == attempts.c.task_id)
    return summed("expected", keys, OF_AN_ATTEMPT).select_from(source).where(COUNTED)


def _of_ends(connection: ReadConnection) -> sa.Select[Any]:
    """A task's end is booked where the attempt that ended it is; its result names it, or 0."""
    keys = _keys(connection, tasks.c.ended_at, upstream=sa.func.coalesce(attempts.c.upstream, _constant("")))
    source = sa.outerjoin(tasks, task_results, task_results.c.task_id == tasks.c.id).outerjoin(
        attempts, sa.and_(attempts.c.task_id == tasks.c.id, attempts.c.number == task_results.c.attempt)
    )
    return summed("expected", keys, OF_A_TASK).select_from(source).where(tasks.c.ended_at.is_not(None))


def summed(side: str, keys: Mapping[str, Any], sums: Sums, *, counts: Sequence[str] = USAGE_COUNTS) -> sa.Select[Any]:
    """Summed up before it is compared: what is left is small."""
    zero = sa.literal_column("0", sa.BigInteger)
    columns = {f"{side}_{name}": sa.func.sum(one) for name, one in sums.items()}
    return sa.select(
        *(key.label(name) for name, key in keys.items()),
        *(columns.get(name, zero).label(name) for name in (*names("found", counts), *names("expected", counts))),
    ).group_by(*keys.values())


def _keys(connection: ReadConnection, at: Any, *, upstream: Any) -> dict[str, Any]:
    return {
        "hour": _hour(connection, at),
        "project_id": tasks.c.project_id,
        "key_id": tasks.c.key_id,
        "model": tasks.c.model,
        "upstream": upstream,
        "label": sa.func.coalesce(tasks.c.label, _constant("")),
    }


def _hour(connection: ReadConnection, at: Any) -> Any:
    """Its first instant, in UTC: a session's time zone may be half an hour off."""
    if dialect_of(connection) == "sqlite":
        return sa.func.strftime(_constant("%Y-%m-%d %H:00:00.000000"), at, type_=Instant)
    return sa.func.date_trunc(_constant("hour"), at, _constant("UTC"), type_=Instant)


def _constant(text: str) -> Any:
    """Written into the statement: PostgreSQL does not see that two parameters, in SELECT and GROUP BY, are equal."""
    return sa.literal(text, literal_execute=True)
