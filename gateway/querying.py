"""What the dialects' queries have in common: read a project's tasks, wait for them, cancel one."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from uuid import UUID

from gateway.services import Services
from tollgate.broker.bus import CANCEL, ENDED
from tollgate.domain.errors import NotFoundError
from tollgate.domain.states import TaskState
from tollgate.domain.tasks import Key
from tollgate.store import cancels, tasks
from tollgate.store.tasks import Task


async def read_task(services: Services, key: Key, task_id: UUID, *, wait_s: float = 0) -> Task:
    """The project's task; while it is open and `wait_s` is not over, wait. Raises NotFoundError."""
    found = await read_tasks(services, key, [task_id], wait_s=wait_s)
    if task_id not in found:
        raise NotFoundError("task", str(task_id))
    return found[task_id]


async def read_tasks(services: Services, key: Key, ids: Sequence[UUID], *, wait_s: float = 0) -> dict[UUID, Task]:
    """The project's tasks among `ids`. With `wait_s`: when any that is open has ended, or the time is over."""
    found = await _read(services, key, ids)
    still_open = [task_id for task_id, one in found.items() if not one.state.ended]
    if wait_s and still_open:
        await services.waiters.wait(still_open, timeout_s=wait_s)
        found = await _read(services, key, ids)
    return found


async def cancel_task(services: Services, key: Key, task_id: UUID) -> TaskState:
    """A queued task ends, a running one's worker is told. Returns its state after. Raises NotFoundError."""
    async with services.database.write() as connection:
        state = await cancels.cancel(connection, task_id, project_id=key.project_id, now=datetime.now(UTC))
    if state is TaskState.RUNNING:
        await services.bus.publish(CANCEL, [task_id])
    elif state is TaskState.CANCELLED:
        await services.bus.publish(ENDED, [task_id])
    return state


async def _read(services: Services, key: Key, ids: Sequence[UUID]) -> dict[UUID, Task]:
    async with services.database.read() as connection:
        return await tasks.by_ids(connection, ids, project_id=key.project_id)
