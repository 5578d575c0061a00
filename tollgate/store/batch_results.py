"""What the lines of a batch came to, a page at a time: tasks that stand, with their results and their bills.

Each page is one statement by an index, in the order of the input or of the ends. It holds up to `rows` lines, and
fewer where their texts are long: the first, and more until there are PAGE_BYTES of them. So neither a transaction nor
what a reader holds grows with the batch. Lines that are no tasks are `batch_intake.invalid_page`'s.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from enum import StrEnum
from itertools import groupby
from typing import Any, NamedTuple
from uuid import UUID

import sqlalchemy as sa

from tollgate.domain.states import OPEN_STATES, AttemptOutcome, TaskState
from tollgate.store.database import ReadConnection, dialect_of
from tollgate.store.schema import (
    LINE_ENDED,
    LINE_FAILED,
    LINE_STANDS,
    Instant,
    attempts,
    task_requests,
    task_results,
    tasks,
)

PAGE_BYTES = 2 << 20
"""Of texts."""
SOME, MANY = 32, 1_000
"""The numbers of rows that pages are asked for, written into the statements: the planner must not take a page for a
tenth of the batch, as it would with a parameter there."""
FIRST = datetime(1970, 1, 1, tzinfo=UTC)
LAST = datetime(9999, 1, 1, tzinfo=UTC)


class Which(StrEnum):
    """Lines of a batch by what they came to."""

    ALL = "all"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    """With those cancelled and expired."""


class Purchase(NamedTuple):
    """An attempt, as far as results tell of it; the cost in nano-units. A tuple, as Line is: there are millions, and
    a dataclass takes four times as long to make."""

    outcome: AttemptOutcome
    upstream: str
    upstream_model: str
    prompt_tokens: int | None
    cached_tokens: int | None
    completion_tokens: int | None
    cost_nano: int | None
    possible_cost_nano: int | None


class Line(NamedTuple):
    """A line that is a task."""

    id: UUID
    line: int
    custom_id: str | None
    endpoint: str
    model: str
    created_at: datetime
    ended_at: datetime | None
    result: str | None
    """The upstream's JSON text; None: there is no answer, or it was erased."""
    error_code: str | None
    error_message: str | None
    input: str | None
    """The JSON text of the call's body, where it was asked for and is still kept."""
    state: TaskState
    attempts: tuple[Purchase, ...]

    @property
    def request_id(self) -> None:
        """Lines have none of their client's: their custom_id names them."""


OF_TASK = ("id", "line", "custom_id", "endpoint", "model", "created_at", "ended_at", "state")
OF_LINE = Line._fields[:-1]
OF_ATTEMPT = Purchase._fields
OPEN_OR_SUCCEEDED = sorted(OPEN_STATES | {TaskState.SUCCEEDED})


async def by_line(
    connection: ReadConnection,
    batch_id: UUID,
    *,
    which: Which,
    after: int,
    until: int,
    rows: int = MANY,
    with_input: bool = False,
    ended: bool = False,
) -> list[Line]:
    """In the order of the input, from the line past `after` to `until`. Lines that have not ended come too, whichever
    is asked for: a reader stops there. `ended`: there are none of them."""
    statement = _by_line(dialect_of(connection), which, rows, with_input, ended)
    return await _read(connection, statement, {"batch_id": batch_id, "after_line": after, "until_line": until})


async def by_end(
    connection: ReadConnection,
    batch_id: UUID,
    *,
    which: Which,
    after: tuple[datetime, int] = (FIRST, 0),
    until: datetime = LAST,
    rows: int = MANY,
    with_input: bool = False,
) -> list[Line]:
    """As they ended, past the time and line of `after`, up to those that ended at `until`."""
    statement = _by_end(dialect_of(connection), which, rows, with_input)
    bound = {"batch_id": batch_id, "after_at": after[0], "after_line": after[1], "until_at": until}
    return await _read(connection, statement, bound)


async def _read(connection: ReadConnection, statement: sa.Executable, bound: dict[str, Any]) -> list[Line]:
    found = (await connection.execute(statement, {**bound, "max_bytes": PAGE_BYTES})).all()
    return list(_lines(found))


def _lines(found: Sequence[Any]) -> Iterator[Line]:
    """A row for each attempt, or one without any, in the order of the lines."""
    before = len(OF_LINE)
    for _, of_line in groupby(found, key=lambda row: row[1]):
        of_attempts = tuple(of_line)
        *told, state = of_attempts[0][:before]
        bought = tuple(_purchase(*row[before:]) for row in of_attempts if row[before] is not None)
        yield Line._make((*told, TaskState(state), bought))


def _purchase(outcome: str, *rest: Any) -> Purchase:
    return Purchase._make((AttemptOutcome(outcome), *rest))


@functools.cache
def _by_line(dialect: str, which: Which, rows: int, with_input: bool, ended: bool) -> sa.Executable:
    within = (
        tasks.c.line > sa.bindparam("after_line", type_=sa.BigInteger),
        tasks.c.line <= sa.bindparam("until_line", type_=sa.BigInteger),
    )
    return _page(dialect, *within, _chosen(which, ended), order=(tasks.c.line,), rows=rows, with_input=with_input)


def _chosen(which: Which, ended: bool) -> sa.ColumnElement[bool] | sa.TextClause:
    match which:
        case Which.SUCCEEDED:
            return sa.and_(LINE_STANDS, _state_in(OPEN_OR_SUCCEEDED))
        case Which.FAILED:
            return LINE_FAILED if ended else sa.and_(LINE_STANDS, sa.not_(_state_in([TaskState.SUCCEEDED])))
        case Which.ALL:
            return LINE_STANDS


@functools.cache
def _by_end(dialect: str, which: Which, rows: int, with_input: bool) -> sa.Executable:
    after = sa.bindparam("after_at", type_=Instant()), sa.bindparam("after_line", type_=sa.BigInteger)
    conditions = [
        LINE_ENDED,
        sa.tuple_(tasks.c.ended_at, tasks.c.line) > sa.tuple_(*after),
        tasks.c.ended_at <= sa.bindparam("until_at", type_=Instant()),
    ]
    if which is not Which.ALL:
        succeeded = _state_in([TaskState.SUCCEEDED])
        conditions.append(succeeded if which is Which.SUCCEEDED else sa.not_(succeeded))
    return _page(dialect, *conditions, order=(tasks.c.ended_at, tasks.c.line), rows=rows, with_input=with_input)


def _state_in(states: Sequence[TaskState]) -> sa.ColumnElement[bool]:
    return tasks.c.state.in_([sa.literal(state, sa.String(16), literal_execute=True) for state in states])


def _page(
    dialect: str, *conditions: Any, order: Sequence[sa.Column[Any]], rows: int, with_input: bool
) -> sa.Executable:
    first = _first(dialect, *conditions, order=order, rows=rows, with_input=with_input)
    by = [first.c[column.name] for column in order]
    so_far = sa.func.sum(first.c.size).over(order_by=by)
    fit = sa.select(first, (so_far - first.c.size).label("before")).subquery("fit")
    return (
        sa.select(*(fit.c[name] for name in OF_LINE), *(attempts.c[name] for name in OF_ATTEMPT))
        .outerjoin_from(fit, attempts, attempts.c.task_id == fit.c.id)
        .where(fit.c.before < sa.bindparam("max_bytes", type_=sa.BigInteger))
        .order_by(*(fit.c[column.name] for column in order), attempts.c.number)
    )


def _first(dialect: str, *conditions: Any, order: Sequence[sa.Column[Any]], rows: int, with_input: bool) -> sa.Subquery:
    """Of what is past the place: the first `rows`, whose texts may be too long for one page."""
    length = sa.func.length if dialect == "sqlite" else sa.func.octet_length
    body = task_requests.c.body if with_input else sa.null()
    texts = (task_results.c.body, body) if with_input else (task_results.c.body,)
    size: sa.ColumnElement[int] = sa.literal_column("0")
    for text in texts:
        size += sa.func.coalesce(length(text), 0)
    chosen = sa.select(
        *(tasks.c[name] for name in OF_TASK),
        task_results.c.body.label("result"),
        task_results.c.error_code,
        task_results.c.error_message,
        sa.type_coerce(body, sa.Text()).label("input"),
        size.label("size"),
    ).outerjoin_from(tasks, task_results, task_results.c.task_id == tasks.c.id)
    if with_input:
        chosen = chosen.outerjoin(task_requests, task_requests.c.task_id == tasks.c.id)
    limited = chosen.where(tasks.c.batch_id == sa.bindparam("batch_id", type_=sa.Uuid()), *conditions)
    return limited.order_by(*order).limit(sa.literal_column(str(rows))).subquery("first")
