"""Cancelling: a queued task ends at once, a running one is asked of its worker. The first settlement wins."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

import sqlalchemy as sa

from tollgate.domain.errors import NotFoundError
from tollgate.domain.settling import Settlement
from tollgate.domain.states import AttemptOutcome, TaskState
from tollgate.store import settlements
from tollgate.store.database import WriteConnection
from tollgate.store.schema import RUNNING, tasks


async def cancel(connection: WriteConnection, task_id: UUID, *, project_id: UUID, now: datetime) -> TaskState:
    """Returns the state after: CANCELLED, RUNNING (its worker was asked), or the end it had already come to.

    Raises NotFoundError for another project's task too."""
    statement = (
        sa.select(tasks.c.state, tasks.c.fence, tasks.c.attempt)
        .where(tasks.c.id == task_id, tasks.c.project_id == project_id)
        .with_for_update()
    )
    row = (await connection.execute(statement)).first()
    if row is None:
        raise NotFoundError("task", str(task_id))
    state = TaskState(row.state)
    if state is TaskState.RUNNING:
        await connection.execute(
            sa.update(tasks)
            .where(tasks.c.id == task_id, tasks.c.state == RUNNING, tasks.c.cancel_requested_at.is_(None))
            .values(cancel_requested_at=now)
        )
    elif state is TaskState.QUEUED:
        await settlements.settle(connection, [cancelled(task_id, fence=row.fence, attempt=row.attempt)], now=now)
        return TaskState.CANCELLED
    return state


def cancelled(task_id: UUID, *, fence: int, attempt: int) -> Settlement:
    """The settlement of a queued task that its owner cancels."""
    return Settlement(
        task_id=task_id,
        fence=fence,
        attempt=attempt,
        held=TaskState.QUEUED,
        outcome=AttemptOutcome.ABANDONED,
        state=TaskState.CANCELLED,
        error_code="cancelled",
        error_message="cancelled at its owner's request",
    )
