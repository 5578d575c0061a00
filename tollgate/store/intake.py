"""Submissions in, task ids out: many in one transaction, each all or nothing.

Idempotency is a unique index on (project, request_id). Rows are inserted in that order, always: two
transactions with common request_ids in opposite orders would deadlock. ON CONFLICT DO NOTHING does not
return conflicting rows, so those are read back and compared by digest.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from tollgate.domain.errors import RequestError, RequestIdConflictError
from tollgate.domain.prices import PriceTable
from tollgate.domain.states import TaskState
from tollgate.domain.tasks import Accepted, NewTask
from tollgate.store import labels, new_tasks, reservations, rows
from tollgate.store.database import Database, ReadConnection, WriteConnection
from tollgate.store.foresight import Foresight, UnforeseenError
from tollgate.store.labels import Label
from tollgate.store.schema import task_requests, tasks

log = logging.getLogger("tollgate.intake")

Submission = tuple[NewTask, ...]
Outcome = tuple[Accepted, ...] | RequestError
"""A submission's ids in its order, or why it was refused whole."""

NO_PRICES = PriceTable([])
REQUEST_KEYS = rows.Given.of(tasks, "project_id", "request_id")
RequestKey = tuple[UUID, str]


async def take_in(
    database: Database, submissions: Sequence[Submission], *, prices: PriceTable, foresight: Foresight
) -> list[Outcome]:
    """As `submit`, committed; in one statement where `foresight` knows the budgets. Raises StoreUnavailableError."""
    new = [task for submission in submissions for task in submission]
    may_foresee = database.dialect != "sqlite" and len(new) <= new_tasks.ROWS_AT_ONCE
    if may_foresee and (reserving := foresight.of(new, prices=prices)) is not None:
        try:
            async with database.write() as connection:
                await new_tasks.insert_as_foreseen(connection, new, reserving)
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
    inserted, budgeted = await new_tasks.insert(connection, new)
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
