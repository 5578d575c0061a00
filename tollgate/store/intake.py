"""Submissions in, task ids out: many in one transaction, each all or nothing.

Idempotency is a unique index on (project, request_id). Rows are inserted in that order, always: two
transactions with common request_ids in opposite orders would deadlock. ON CONFLICT DO NOTHING does not
return conflicting rows, so those are read back and compared by digest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from tollgate.domain.errors import InvalidRequestError, RequestError, RequestIdConflictError
from tollgate.domain.states import TaskState
from tollgate.domain.tasks import Accepted, NewTask
from tollgate.store import rows
from tollgate.store.database import ReadConnection, WriteConnection
from tollgate.store.schema import labels, task_requests, tasks

Submission = tuple[NewTask, ...]
Outcome = tuple[Accepted, ...] | RequestError
"""A submission's ids in its order, or why it was refused whole."""

MAX_LABELS = 1_000
"""A label is a dimension of the hourly accounts; a project with more of them means metadata."""
COLUMNS = tuple(field.name for field in fields(NewTask) if field.name not in ("body", "metadata"))
RequestKey = tuple[UUID, str]
Label = tuple[UUID, str]


async def submit(connection: WriteConnection, submissions: Sequence[Submission]) -> list[Outcome]:
    """Insert all tasks of `submissions`; one outcome each, in order. The caller's transaction commits."""
    new = [task for submission in submissions for task in submission]
    inserted = await _insert_tasks(connection, new)
    known = await _read_back(connection, [t for t in new if t.id not in inserted])
    found = [_outcome(submission, inserted, known) for submission in submissions]
    outcomes = await _limit_labels(connection, submissions, found)
    again = _leaning(submissions, outcomes)
    gone = {t.id for i, s in enumerate(submissions) if i in again or isinstance(outcomes[i], RequestError) for t in s}
    await _delete(connection, inserted & gone)
    await _insert_bodies(connection, [task for task in new if task.id in inserted - gone])
    for i in again:
        outcomes[i] = (await submit(connection, [submissions[i]]))[0]
    return outcomes


async def _insert_tasks(connection: WriteConnection, new: Sequence[NewTask]) -> set[UUID]:
    ordered = sorted(new, key=lambda t: (t.project_id, t.request_id or "", t.id))
    values = [[getattr(task, name) for name in COLUMNS] for task in ordered]
    insert = rows.insert(connection, tasks, (*COLUMNS, "state"), [[*value, TaskState.QUEUED] for value in values])
    statement = insert.on_conflict_do_nothing(
        index_elements=["project_id", "request_id"], index_where=sa.text("request_id IS NOT NULL")
    ).returning(tasks.c.id)
    return set((await connection.execute(statement)).scalars())


async def _read_back(connection: ReadConnection, conflicting: Sequence[NewTask]) -> dict[RequestKey, Any]:
    """The tasks that own the request_ids of `conflicting`."""
    if not conflicting:
        return {}
    kinds = {"project_id": tasks.c.project_id.type, "request_id": tasks.c.request_id.type}
    given = rows.table_of(connection, kinds, [(t.project_id, t.request_id) for t in conflicting])
    statement = sa.select(tasks.c.project_id, tasks.c.request_id, tasks.c.id, tasks.c.digest, tasks.c.state).join(
        given, sa.and_(tasks.c.project_id == given.c.project_id, tasks.c.request_id == given.c.request_id)
    )
    found = (await connection.execute(statement)).all()
    return {(row.project_id, row.request_id): row for row in found}


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
) -> list[Outcome]:
    """Note labels not seen before; who brings one too many for its project is refused.

    A bound, not a quota: two transactions at once may go over it by what they bring."""
    # In the order of coming, so that the last ones are the ones too many.
    used = list(dict.fromkeys(pair for s, o in zip(submissions, outcomes, strict=True) for pair in _labels(s, o)))
    if not used:
        return list(outcomes)
    insert = rows.insert(connection, labels, ("project_id", "label"), sorted(used)).on_conflict_do_nothing()
    returned = (await connection.execute(insert.returning(labels.c.project_id, labels.c.label))).all()
    added = {(row.project_id, row.label) for row in returned}
    surplus = await _surplus(connection, [pair for pair in used if pair in added])
    checked = [
        _too_many_labels() if surplus.intersection(_labels(submission, outcome)) else outcome
        for submission, outcome in zip(submissions, outcomes, strict=True)
    ]
    needed = {pair for s, o in zip(submissions, checked, strict=True) for pair in _labels(s, o)}
    await _forget(connection, added - needed)
    return checked


def _labels(submission: Submission, outcome: Outcome) -> list[Label]:
    """Those that an accepted submission uses."""
    if isinstance(outcome, RequestError):
        return []
    return [(task.project_id, task.label) for task in submission if task.label is not None]


async def _surplus(connection: WriteConnection, added: Sequence[Label]) -> set[Label]:
    """The last of `added`, as many as their project now has over its bound."""
    over: set[Label] = set()
    for project_id in {project_id for project_id, _ in added}:
        count = sa.select(sa.func.count()).where(labels.c.project_id == project_id)
        excess = (await connection.execute(count)).scalar_one() - MAX_LABELS
        if excess > 0:
            over.update([pair for pair in added if pair[0] == project_id][-excess:])
    return over


def _too_many_labels() -> InvalidRequestError:
    return InvalidRequestError(
        f"this project already uses {MAX_LABELS} labels; use one of them, or put this into metadata",
        field="label",
        allowed=f"at most {MAX_LABELS} different labels a project",
    )


async def _forget(connection: WriteConnection, unused: set[Label]) -> None:
    if unused:
        kinds = {name: labels.c[name].type for name in ("project_id", "label")}
        given = rows.table_of(connection, kinds, sorted(unused))
        named = sa.and_(labels.c.project_id == given.c.project_id, labels.c.label == given.c.label)
        await connection.execute(sa.delete(labels).where(sa.exists().where(named)))


async def _delete(connection: WriteConnection, ids: set[UUID]) -> None:
    if ids:
        given = rows.table_of(connection, {"id": tasks.c.id.type}, [(i,) for i in sorted(ids)])
        await connection.execute(sa.delete(tasks).where(tasks.c.id.in_(sa.select(given.c.id))))


async def _insert_bodies(connection: WriteConnection, new: Sequence[NewTask]) -> None:
    if new:
        values = [(task.id, task.body, task.metadata) for task in new]
        await connection.execute(rows.insert(connection, task_requests, ("task_id", "body", "metadata"), values))
