"""Erases texts of tasks that have ended; what they came to stays, for the accounts and for who asks.

Of prompts the row goes. Of results it stays without its texts: it names the attempt whose answer the task's end is
booked by. Erasing again changes nothing. Rows are locked in their order, so that two who erase the same do not wait
for each other in a ring.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from uuid import UUID

import sqlalchemy as sa

from tollgate.domain.errors import NotFoundError, StillOpenError
from tollgate.domain.retention import ALL_TEXTS, ERASED, Texts
from tollgate.domain.states import TaskState
from tollgate.store import rows
from tollgate.store.database import WriteConnection
from tollgate.store.schema import attempts, task_requests, task_results, tasks

AT_ONCE = 1_000
"""Tasks in one transaction."""
IDS = rows.Given.of(tasks, "id")


async def erase_task(connection: WriteConnection, task_id: UUID, *, project_id: UUID) -> None:
    """All texts of one. Raises NotFoundError, and StillOpenError before its end."""
    statement = sa.select(tasks.c.state).where(tasks.c.id == task_id, tasks.c.project_id == project_id)
    state = (await connection.execute(statement)).scalar()
    if state is None:
        raise NotFoundError("task", str(task_id))
    if not TaskState(state).ended:
        raise StillOpenError("task", str(task_id), state=state)
    await erase(connection, [task_id], ALL_TEXTS)


async def erase(connection: WriteConnection, ids: Sequence[UUID], texts: Collection[Texts]) -> None:
    """Of up to AT_ONCE tasks, all of which have ended."""
    given = [(i,) for i in ids]
    if Texts.PROMPTS in texts:
        await rows.execute(connection, _prompts, IDS, given)
    if Texts.RESULTS in texts:
        await rows.execute(connection, _results, IDS, given)
        await rows.execute(connection, _messages, IDS, given)


def _prompts(dialect: str) -> rows.Statement:
    held = _held(dialect, task_requests)
    return sa.delete(task_requests).where(task_requests.c.task_id.in_(sa.select(held.c.task_id)))


def _results(dialect: str) -> rows.Statement:
    held = _held(dialect, task_results, sa.not_(task_results.c.erased))
    code = sa.func.coalesce(task_results.c.error_code, sa.literal(ERASED, literal_execute=True))
    return (
        sa.update(task_results)
        .where(task_results.c.task_id.in_(sa.select(held.c.task_id)))
        .values(erased=True, body=None, error_code=code, error_message=None)
    )


def _messages(dialect: str) -> rows.Statement:
    quotes = attempts.c.error_message.is_not(None)
    held = _held(dialect, attempts, quotes)
    theirs = attempts.c.task_id.in_(sa.select(held.c.task_id))
    return sa.update(attempts).where(theirs, quotes).values(error_message=None)


def _held(dialect: str, table: sa.Table, *conditions: sa.ColumnElement[bool]) -> sa.CTE:
    """The rows of `table` that there are of the given tasks, locked in their order."""
    given = IDS.table(dialect)
    return (
        sa.select(table.c.task_id)
        .where(table.c.task_id.in_(sa.select(given.c.id)), *conditions)
        .order_by(*table.primary_key)
        .with_for_update()
        .cte("held")
    )
