from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

import pytest

from tests.store import seeds
from tollgate.domain.errors import NotFoundError
from tollgate.domain.ids import new_id
from tollgate.domain.states import TaskState
from tollgate.store import cancels
from tollgate.store.database import Database
from tollgate.store.schema import attempts, task_results, usage_hourly


async def cancel(database: Database, task_id: UUID, *, project_id: UUID, now: datetime = seeds.NOW) -> TaskState:
    async with database.write() as connection:
        return await cancels.cancel(connection, task_id, project_id=project_id, now=now)


async def test_a_queued_task_ends_at_once(database: Database) -> None:
    key = await seeds.a_key(database)
    (id_,) = await seeds.queued(database, key)
    assert await cancel(database, id_, project_id=key.project_id, now=seeds.later(1)) is TaskState.CANCELLED
    row = await seeds.row(database, id_)
    assert (row.state, row.ended_at) == ("cancelled", seeds.later(1))
    (result,) = await seeds.rows_of(database, task_results)
    assert (result.attempt, result.body, result.error_code) == (0, None, "cancelled")
    (account,) = await seeds.rows_of(database, usage_hourly)
    assert account.tasks_failed == 1


async def test_a_queued_task_between_two_tries_abandons_its_attempt(database: Database) -> None:
    key = await seeds.a_key(database)
    task = await seeds.running(database, key)
    await seeds.settle(database, seeds.refusal(task))
    assert await cancel(database, task.id, project_id=key.project_id) is TaskState.CANCELLED
    (attempt,) = await seeds.rows_of(database, attempts)
    assert (attempt.outcome, attempt.ended_at) == ("abandoned", seeds.NOW)


async def test_a_running_task_is_asked_of_its_worker(database: Database) -> None:
    key = await seeds.a_key(database)
    task = await seeds.running(database, key)
    assert await cancel(database, task.id, project_id=key.project_id) is TaskState.RUNNING
    assert await cancel(database, task.id, project_id=key.project_id, now=seeds.later(9)) is TaskState.RUNNING
    assert (await seeds.row(database, task.id)).cancel_requested_at == seeds.NOW


@pytest.mark.parametrize(
    ("settlement", "state"), [(seeds.success, TaskState.SUCCEEDED), (seeds.failure, TaskState.FAILED)]
)
async def test_an_ended_task_keeps_its_end(database: Database, settlement: Any, state: TaskState) -> None:
    key = await seeds.a_key(database)
    task = await seeds.running(database, key)
    await seeds.settle(database, settlement(task))
    assert await cancel(database, task.id, project_id=key.project_id) is state
    assert (await seeds.row(database, task.id)).cancel_requested_at is None


async def test_another_projects_task_is_not_found(database: Database) -> None:
    mine, theirs = await seeds.a_key(database), await seeds.a_key(database, project="globex")
    (id_,) = await seeds.queued(database, theirs)
    with pytest.raises(NotFoundError, match=str(id_)):
        await cancel(database, id_, project_id=mine.project_id)
    assert (await seeds.row(database, id_)).state == "queued"


async def test_an_unknown_task_is_not_found(database: Database) -> None:
    key = await seeds.a_key(database)
    with pytest.raises(NotFoundError):
        await cancel(database, new_id(), project_id=key.project_id)


async def test_giving_up_fails_a_queued_task_with_its_reason(database: Database) -> None:
    key = await seeds.a_key(database)
    (id_,) = await seeds.queued(database, key)
    async with database.write() as connection:
        assert await cancels.give_up(
            connection, id_, project_id=key.project_id, code="no_balance", message="paused", now=seeds.NOW
        )
    assert (await seeds.row(database, id_)).state == "failed"
    (result,) = await seeds.rows_of(database, task_results)
    assert (result.error_code, result.error_message) == ("no_balance", "paused")


async def test_giving_up_leaves_a_running_task_to_its_worker(database: Database) -> None:
    key = await seeds.a_key(database)
    task = await seeds.running(database, key)
    async with database.write() as connection:
        assert not await cancels.give_up(
            connection, task.id, project_id=key.project_id, code="no_balance", message="paused", now=seeds.NOW
        )
    assert (await seeds.row(database, task.id)).state == "running"
