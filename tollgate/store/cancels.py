"""Ending a task before its work is done: cancelled by its owner, or given up by who waited for it.

A queued task ends at once; a running one is asked of its worker. The first settlement wins.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from tollgate.domain.errors import NotFoundError
from tollgate.domain.settling import Settlement
from tollgate.domain.states import AttemptOutcome, TaskState
from tollgate.store import settlements
from tollgate.store.database import WriteConnection
from tollgate.store.schema import tasks


async def cancel(connection: WriteConnection, task_id: UUID, *, project_id: UUID, now: datetime) -> TaskState:
    """Returns the state after: CANCELLED, RUNNING (its worker was asked), or the end it had already come to.

    Raises NotFoundError for another project's task too."""
    row = await _lock(connection, task_id, project_id)
    state = TaskState(row.state)
    if state is TaskState.RUNNING:
        await connection.execute(
            sa.update(tasks)
            .where(tasks.c.id == task_id, tasks.c.state == TaskState.RUNNING, tasks.c.cancel_requested_at.is_(None))
            .values(cancel_requested_at=now)
        )
    elif state is TaskState.QUEUED:
        why = "cancelled at its owner's request"
        await _end(connection, task_id, row, TaskState.CANCELLED, code="cancelled", message=why, now=now)
        return TaskState.CANCELLED
    return state


async def give_up(
    connection: WriteConnection, task_id: UUID, *, project_id: UUID, code: str, message: str, now: datetime
) -> bool:
    """Fail a task that is still queued. False: it is not. Raises NotFoundError."""
    row = await _lock(connection, task_id, project_id)
    if TaskState(row.state) is not TaskState.QUEUED:
        return False
    await _end(connection, task_id, row, TaskState.FAILED, code=code, message=message, now=now)
    return True


async def _lock(connection: WriteConnection, task_id: UUID, project_id: UUID) -> Any:
    statement = (
        sa.select(tasks.c.state, tasks.c.fence, tasks.c.attempt)
        .where(tasks.c.id == task_id, tasks.c.project_id == project_id)
        .with_for_update()
    )
    row = (await connection.execute(statement)).first()
    if row is None:
        raise NotFoundError("task", str(task_id))
    return row


async def _end(
    connection: WriteConnection, task_id: UUID, row: Any, state: TaskState, *, code: str, message: str, now: datetime
) -> None:
    settlement = Settlement(
        task_id=task_id,
        fence=row.fence,
        attempt=row.attempt,
        held=TaskState.QUEUED,
        outcome=AttemptOutcome.ABANDONED,
        state=state,
        error_code=code,
        error_message=message,
    )
    await settlements.settle(connection, [settlement], now=now)
