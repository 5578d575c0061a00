"""What the dialects' queries have in common: whose is asked for; read a project's tasks, wait for them, cancel one."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from uuid import UUID

from gateway.authentication import require_admin
from gateway.services import Services
from gateway.waiting import heard
from tollgate.broker.bus import CANCEL, ENDED
from tollgate.domain.errors import NotFoundError
from tollgate.domain.routing import upstream_of
from tollgate.domain.states import TaskState
from tollgate.domain.tasks import Key
from tollgate.store import cancels, keys, leases, pauses, tasks
from tollgate.store.tasks import Task


async def project_asked(services: Services, key: Key, name: str | None) -> UUID | None:
    """The project of that name, by default the key's own; None: every one's. Another's is for admins.

    Raises PermissionDeniedError, NotFoundError."""
    if name is None or name == key.project:
        return key.project_id
    require_admin(key)
    if name == "*":
        return None
    async with services.database.read() as connection:
        return (await keys.project_named(connection, name)).id


async def read_task(services: Services, key: Key, task_id: UUID, *, wait_s: float = 0) -> Task:
    """The project's task; while it is open and `wait_s` is not over, wait. Raises NotFoundError."""
    if not wait_s:
        return await _read_one(services, key, task_id)
    with services.waiters.listening([task_id]) as ended:
        found = await _read_one(services, key, task_id)
        if found.state.ended:
            return found
        await heard(ended, timeout_s=wait_s)
    return await _read_one(services, key, task_id)


async def read_new_task(services: Services, key: Key, task_id: UUID, *, wait_s: float) -> Task:
    """The same of a task that was committed just now: waited for before it is read."""
    with services.waiters.listening([task_id]) as ended:
        await heard(ended, timeout_s=wait_s)
    return await _read_one(services, key, task_id)


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


async def give_up_if_paused(services: Services, key: Key, one: Task) -> Task:
    """Fail a task that is still queued because its upstream is paused (no balance, a refused key); the task after."""
    if one.state is not TaskState.QUEUED:
        return one
    why = await _pause_of(services, one.route)
    if why is None:
        return one
    reason, _, message = why.partition(": ")
    async with services.database.write() as connection:
        await cancels.give_up(
            connection,
            one.id,
            project_id=key.project_id,
            code=reason.partition(" ")[0],
            message=f"its upstream is paused: {message or reason}",
            now=datetime.now(UTC),
        )
    return await read_task(services, key, one.id)


async def _pause_of(services: Services, route: str) -> str | None:
    """Why no worker that knows `route` can call it; None where one can, or nobody knows."""
    async with services.database.read() as connection:
        paused = [row for row in await pauses.read(connection) if row.upstream == upstream_of(route)]
        if not paused:
            return None
        loads = [worker.load[route] for worker in await leases.alive(connection) if route in worker.load]
    return paused[0].reason if loads and all(load.blocked for load in loads) else None


async def _read_one(services: Services, key: Key, task_id: UUID) -> Task:
    found = await services.reader.read(task_id, project_id=key.project_id)
    if found is None:
        raise NotFoundError("task", str(task_id))
    return found


async def _read(services: Services, key: Key, ids: Sequence[UUID]) -> dict[UUID, Task]:
    async with services.database.read() as connection:
        return await tasks.by_ids(connection, ids, project_id=key.project_id)
