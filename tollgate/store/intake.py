"""Submissions in, task ids out: many in one transaction, each all or nothing.

Idempotency is a unique index on (project, request_id). Rows are inserted in that order, always: two
transactions with common request_ids in opposite orders would deadlock. ON CONFLICT DO NOTHING does not
return conflicting rows, so those are read back and compared by digest.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import fields, replace
from operator import attrgetter
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql
from sqlalchemy.sql.dml import ReturningInsert

from tollgate.domain.errors import RequestError, RequestIdConflictError
from tollgate.domain.prices import PriceTable
from tollgate.domain.states import TaskState
from tollgate.domain.tasks import Accepted, NewTask
from tollgate.store import labels, periods, reservations, rows
from tollgate.store.database import Database, ReadConnection, WriteConnection, dialect_of
from tollgate.store.foresight import IN_MONEY, Foresight, Reserving, UnforeseenError
from tollgate.store.labels import Label
from tollgate.store.schema import budgets, task_requests, tasks

log = logging.getLogger("tollgate.intake")

Submission = tuple[NewTask, ...]
Outcome = tuple[Accepted, ...] | RequestError
"""A submission's ids in its order, or why it was refused whole."""

NO_PRICES = PriceTable([])
ROWS_AT_ONCE = 1_000
"""In one statement: to encode them takes 20 ms of the event loop, which others need too."""
COLUMNS = tuple(field.name for field in fields(NewTask) if field.name in tasks.c)
VALUES = attrgetter(*COLUMNS)
NEW_TASKS = rows.Given.of(tasks, *COLUMNS, "state")
RESERVING_TASKS = rows.Given.of(tasks, *COLUMNS, "state", "reserved_nano", "reserved_tokens", "charged_to")
BODIES = rows.Given.of(task_requests, "task_id", "body", "metadata", name="bodies")
REQUEST_KEYS = rows.Given.of(tasks, "project_id", "request_id")
RequestKey = tuple[UUID, str]


async def take_in(
    database: Database, submissions: Sequence[Submission], *, prices: PriceTable, foresight: Foresight
) -> list[Outcome]:
    """As `submit`, committed; in one statement where `foresight` knows the budgets. Raises StoreUnavailableError."""
    new = [task for submission in submissions for task in submission]
    may_foresee = database.dialect != "sqlite" and len(new) <= ROWS_AT_ONCE
    if may_foresee and (reserving := foresight.of(new, prices=prices)) is not None:
        try:
            async with database.write() as connection:
                await _insert_as_foreseen(connection, new, reserving)
        except UnforeseenError:
            log.debug("budgets not as foreseen", extra={"tasks": len(new)})
            foresight.missed(new)
        else:
            foresight.hit()
            return [tuple(Accepted(id=task.id) for task in submission) for submission in submissions]
    async with database.write() as connection:
        outcomes = await submit(connection, submissions, prices=prices, foresight=foresight)
    foresight.learn_labels(_needed(submissions, outcomes))
    return outcomes


async def submit(
    connection: WriteConnection,
    submissions: Sequence[Submission],
    *,
    prices: PriceTable = NO_PRICES,
    foresight: Foresight | None = None,
) -> list[Outcome]:
    """Insert all tasks of `submissions`; one outcome each, in order. The caller's transaction commits.

    `prices` say what budgets reserve for them. `foresight` learns which these are."""
    new = [task for submission in submissions for task in submission]
    inserted, budgeted = await _insert_tasks(connection, new)
    known = await _read_back(connection, [t for t in new if t.id not in inserted])
    found = [_outcome(submission, inserted, known) for submission in submissions]
    outcomes, new_labels = await _limit_labels(connection, submissions, found)
    counted = _inserted(submissions, outcomes, inserted) if budgeted else {}
    plan = await reservations.plan(connection, counted, prices=prices)
    if foresight is not None and (budgeted or foresight.knows):
        foresight.learn(_inserted(submissions, outcomes, inserted), plan)
    for i, refused in plan.refused.items():
        outcomes[i] = refused
    for i, left in plan.in_flight_left.items():
        outcomes[i] = _telling(outcomes[i], left)
    await labels.forget(connection, new_labels - _needed(submissions, outcomes))
    again = _leaning(submissions, outcomes)
    gone = {t.id for i, s in enumerate(submissions) if i in again or isinstance(outcomes[i], RequestError) for t in s}
    await _delete(connection, inserted & gone)
    await reservations.keep(connection, plan, inserted - gone)
    for i in again:
        outcomes[i] = (await submit(connection, [submissions[i]], prices=prices))[0]
    return outcomes


def _inserted(
    submissions: Sequence[Submission], outcomes: Sequence[Outcome], inserted: set[UUID]
) -> dict[int, list[NewTask]]:
    """By position, the new tasks of the submissions not refused so far."""
    return {
        i: [task for task in submission if task.id in inserted]
        for i, (submission, outcome) in enumerate(zip(submissions, outcomes, strict=True))
        if not isinstance(outcome, RequestError)
    }


async def _insert_tasks(connection: WriteConnection, new: Sequence[NewTask]) -> tuple[set[UUID], bool]:
    """The ids of those whose request_ids were free, now there with their bodies; whether any is under a budget."""
    dialect = dialect_of(connection)
    ordered = _in_order(new)
    inserted: dict[UUID, bool] = {}
    for start in range(0, len(ordered), ROWS_AT_ONCE):
        some = ordered[start : start + ROWS_AT_ONCE]
        values = [(*VALUES(task), TaskState.QUEUED) for task in some]
        bodies = [(task.id, task.body, task.metadata) for task in some]
        if dialect == "sqlite":
            found = await rows.execute(connection, _inserting_tasks, NEW_TASKS, values)
            inserted |= dict(map(tuple, found.all()))
            await rows.execute(connection, _inserting_bodies, BODIES, [b for b in bodies if b[0] in inserted])
        else:
            found = await rows.execute(connection, _inserting_both, NEW_TASKS, values, **BODIES.bind(dialect, bodies))
            inserted |= dict(map(tuple, found.all()))
    return set(inserted), any(inserted.values())


def _in_order(new: Sequence[NewTask]) -> list[NewTask]:
    return sorted(new, key=lambda t: (t.project_id, t.request_id or "", t.id))


def _inserting_tasks(dialect: str) -> ReturningInsert[*tuple[Any, ...]]:
    budgeted = sa.exists().where(*_covering()).label("budgeted")
    return _inserting(NEW_TASKS, dialect).returning(tasks.c.id, budgeted)


def _inserting(given: rows.Given, dialect: str) -> postgresql.Insert:
    return given.insert(dialect, tasks).on_conflict_do_nothing(
        index_elements=["project_id", "request_id"], index_where=sa.text("request_id IS NOT NULL")
    )


def _covering() -> tuple[sa.ColumnElement[bool], ...]:
    """Of a budget: it counts the inserted task."""
    project_id, key_id = rows.returned(tasks.c.project_id), rows.returned(tasks.c.key_id)
    of_key = sa.or_(budgets.c.key_id.is_(None), budgets.c.key_id == key_id)
    return budgets.c.project_id == project_id, budgets.c.batch_id.is_(None), of_key


def _inserting_bodies(dialect: str) -> rows.Statement:
    return BODIES.insert(dialect, task_requests)


def _inserting_both(dialect: str) -> rows.Statement:
    """In one statement: a second is a fifth of what a commit of a few tasks takes."""
    inserted = _inserting_tasks(dialect).cte("inserted")
    return sa.select(inserted.c.id, inserted.c.budgeted).add_cte(_keeping_bodies(dialect, inserted).cte("kept"))


def _keeping_bodies(dialect: str, inserted: sa.CTE) -> ReturningInsert[UUID]:
    given = BODIES.table(dialect)
    theirs = sa.select(given).join(inserted, inserted.c.id == given.c.task_id)
    return sa.insert(task_requests).from_select(list(given.c.keys()), theirs).returning(task_requests.c.task_id)


async def _insert_as_foreseen(connection: WriteConnection, new: Sequence[NewTask], reserving: Reserving) -> None:
    """All of `new`, with their bodies and what they reserve. Raises UnforeseenError: nothing may be committed then."""
    dialect = dialect_of(connection)
    values = [(*VALUES(task), TaskState.QUEUED, *reserving.columns_of(task.id)) for task in _in_order(new)]
    changes = periods.values_of(reserving.changes)
    bound = BODIES.bind(dialect, [(task.id, task.body, task.metadata) for task in new])
    bound |= periods.CHANGES.bind(dialect, changes)
    found = await rows.execute(connection, _inserting_foreseen, RESERVING_TASKS, values, all_new=len(new), **bound)
    told = found.all()
    added = told[0].added if told else 0
    if added < len(changes) or not reserving.is_as_told(new, {row.id: row.covering for row in told}):
        raise UnforeseenError


def _inserting_foreseen(dialect: str) -> rows.Statement:
    """PostgreSQL's. As everywhere periods are locked after the tasks, and here after their bodies too: the lock's
    condition counts these, so all are written, or their conflicts waited for, before it can hold."""
    mark = sa.case((budgets.c.limit_nano.is_(None), ""), else_=IN_MONEY)
    in_text = sa.func.string_agg(sa.cast(budgets.c.id, sa.Text) + mark, sa.literal_column("','"))
    covering = sa.select(in_text.aggregate_order_by(budgets.c.id)).where(*_covering()).scalar_subquery()
    inserted = _inserting(RESERVING_TASKS, dialect).returning(tasks.c.id, covering.label("covering")).cte("inserted")
    kept = _keeping_bodies(dialect, inserted).cte("kept")
    all_kept = _count(kept) == sa.bindparam("all_new", type_=sa.BigInteger())
    added = periods.adding_with_room(dialect, all_kept).cte("added")
    return sa.select(inserted.c.id, inserted.c.covering, _count(added).label("added"))


def _count(of: sa.CTE) -> sa.ScalarSelect[int]:
    return sa.select(sa.func.count()).select_from(of).scalar_subquery()


async def _read_back(connection: ReadConnection, conflicting: Sequence[NewTask]) -> dict[RequestKey, Any]:
    """The tasks that own the request_ids of `conflicting`."""
    if not conflicting:
        return {}
    values = [(t.project_id, t.request_id) for t in conflicting]
    found = (await rows.execute(connection, _reading_back, REQUEST_KEYS, values)).all()
    return {(row.project_id, row.request_id): row for row in found}


def _reading_back(dialect: str) -> rows.Statement:
    given = REQUEST_KEYS.table(dialect)
    return sa.select(tasks.c.project_id, tasks.c.request_id, tasks.c.id, tasks.c.digest, tasks.c.state).join(
        given, sa.and_(tasks.c.project_id == given.c.project_id, tasks.c.request_id == given.c.request_id)
    )


def _outcome(submission: Submission, inserted: set[UUID], known: dict[RequestKey, Any]) -> Outcome:
    accepted = []
    for task in submission:
        if task.id in inserted:
            accepted.append(Accepted(id=task.id))
            continue
        owner = known[task.project_id, task.request_id or ""]
        if owner.digest != task.digest:
            return RequestIdConflictError(task.request_id or "", task_id=str(owner.id))
        accepted.append(Accepted(id=owner.id, state=TaskState(owner.state), duplicate=True))
    return tuple(accepted)


def _telling(outcome: Outcome, in_flight_left: int) -> Outcome:
    if isinstance(outcome, RequestError):
        return outcome
    return tuple(replace(accepted, in_flight_left=in_flight_left) for accepted in outcome)


def _leaning(submissions: Sequence[Submission], outcomes: Sequence[Outcome]) -> list[int]:
    """Positions of those that were given the task of a neighbour that is refused, or leans itself.

    Their rows go with the neighbour's, and they are submitted again, each alone."""
    gone = {t.id for s, o in zip(submissions, outcomes, strict=True) if isinstance(o, RequestError) for t in s}
    leaning: set[int] = set()
    while True:
        more = {
            i
            for i, outcome in enumerate(outcomes)
            if i not in leaning and not isinstance(outcome, RequestError)
            if any(accepted.duplicate and accepted.id in gone for accepted in outcome)
        }
        if not more:
            return sorted(leaning)
        leaning |= more
        gone |= {task.id for i in more for task in submissions[i]}


async def _limit_labels(
    connection: WriteConnection, submissions: Sequence[Submission], outcomes: Sequence[Outcome]
) -> tuple[list[Outcome], set[Label]]:
    """Note labels not seen before; who brings one too many for its project is refused. Also returns the new ones."""
    # In the order of coming, so that the last ones are the ones too many.
    used = list(dict.fromkeys(pair for s, o in zip(submissions, outcomes, strict=True) for pair in _labels(s, o)))
    if not used:
        return list(outcomes), set()
    added, surplus = await labels.note(connection, used)
    checked = [
        labels.too_many() if surplus.intersection(_labels(submission, outcome)) else outcome
        for submission, outcome in zip(submissions, outcomes, strict=True)
    ]
    return checked, added


def _needed(submissions: Sequence[Submission], outcomes: Sequence[Outcome]) -> set[Label]:
    return {pair for s, o in zip(submissions, outcomes, strict=True) for pair in _labels(s, o)}


def _labels(submission: Submission, outcome: Outcome) -> list[Label]:
    """Those that an accepted submission uses."""
    if isinstance(outcome, RequestError):
        return []
    return [(task.project_id, task.label) for task in submission if task.label is not None]


async def _delete(connection: WriteConnection, ids: set[UUID]) -> None:
    if ids:
        given = rows.table_of(connection, {"id": tasks.c.id.type}, [(i,) for i in sorted(ids)])
        await connection.execute(sa.delete(task_requests).where(task_requests.c.task_id.in_(sa.select(given.c.id))))
        await connection.execute(sa.delete(tasks).where(tasks.c.id.in_(sa.select(given.c.id))))
