from __future__ import annotations

from typing import Any
from uuid import UUID

import pytest

from tests.store import seeds
from tollgate.domain.ids import new_id
from tollgate.domain.states import AttemptOutcome, TaskState
from tollgate.store import cancels, tasks
from tollgate.store.database import Database
from tollgate.store.tasks import Filter, Task


async def by_ids(database: Database, *ids: UUID, project_id: UUID) -> dict[UUID, Task]:
    async with database.read() as connection:
        return await tasks.by_ids(connection, ids, project_id=project_id)


async def page(
    database: Database, project_id: UUID, *, limit: int = 100, after: UUID | None = None, **where: Any
) -> list[UUID]:
    async with database.read() as connection:
        found = await tasks.page(connection, project_id=project_id, where=Filter(**where), limit=limit, after=after)
    return [task.id for task in found]


async def test_a_task_comes_with_its_result_its_metadata_and_its_attempts(database: Database) -> None:
    key = await seeds.a_key(database)
    task = await seeds.running(database, key, metadata='{"a":1}', label="l", custom_id="c", request_id="r")
    await seeds.settle(database, seeds.doubt(task), now=seeds.later(1))
    (again,) = await seeds.claim(database, task.id, now=seeds.later(2))
    await seeds.settle(database, seeds.success(again), now=seeds.later(3))
    found = (await by_ids(database, task.id, project_id=key.project_id))[task.id]
    assert (found.state, found.result, found.error_code, found.metadata) == (
        TaskState.SUCCEEDED, '{"choices":[]}', None, '{"a":1}',
    )  # fmt: skip
    assert (found.label, found.custom_id, found.request_id, found.tries) == ("l", "c", "r", 1)
    assert (found.created_at, found.started_at, found.ended_at) == (seeds.NOW, seeds.NOW, seeds.later(3))
    lost, answered = found.attempts
    assert (lost.number, lost.outcome, lost.possible_cost_nano) == (1, AttemptOutcome.UNCERTAIN, 700_000)
    assert (answered.number, answered.outcome, answered.cost_nano) == (2, AttemptOutcome.SUCCEEDED, 600_000)
    assert (answered.price_id, answered.cost_estimated) == (seeds.PRICE.id, False)


async def test_a_task_that_nobody_ran_has_no_attempts_and_one_that_ended_so_its_error(database: Database) -> None:
    key = await seeds.a_key(database)
    waiting, unwanted = await seeds.queued(database, key, count=2)
    async with database.write() as connection:
        await cancels.cancel(connection, unwanted, project_id=key.project_id, now=seeds.NOW)
    found = await by_ids(database, unwanted, waiting, project_id=key.project_id)
    assert [(found[i].state, found[i].attempts, found[i].error_code) for i in (waiting, unwanted)] == [
        (TaskState.QUEUED, (), None), (TaskState.CANCELLED, (), "cancelled"),
    ]  # fmt: skip


async def test_a_failed_task_comes_with_its_error(database: Database) -> None:
    key = await seeds.a_key(database)
    task = await seeds.running(database, key)
    await seeds.settle(database, seeds.failure(task))
    found = (await by_ids(database, task.id, project_id=key.project_id))[task.id]
    assert (found.result, found.error_code, found.error_message) == (None, "1210", "bad call")


async def test_another_projects_tasks_are_not_there(database: Database) -> None:
    mine, theirs = await seeds.a_key(database), await seeds.a_key(database, project="globex")
    ids = await seeds.queued(database, theirs, count=2)
    own = await seeds.queued(database, mine)
    assert list(await by_ids(database, *ids, *own, new_id(), project_id=mine.project_id)) == own
    assert await page(database, mine.project_id) == own


async def test_no_ids_are_no_tasks(database: Database) -> None:
    assert await by_ids(database, project_id=new_id()) == {}


async def test_pages_go_from_the_newest_to_the_oldest_without_a_gap(database: Database) -> None:
    key = await seeds.a_key(database)
    ids = await seeds.queued(database, key, count=25)
    seen: list[UUID] = []
    while found := await page(database, key.project_id, limit=10, after=seen[-1] if seen else None):
        seen += found
    assert seen == ids[::-1]


async def test_a_task_that_comes_meanwhile_does_not_move_the_next_page(database: Database) -> None:
    key = await seeds.a_key(database)
    ids = await seeds.queued(database, key, count=4)
    first = await page(database, key.project_id, limit=2)
    await seeds.queued(database, key)
    assert await page(database, key.project_id, after=first[-1]) == ids[1::-1]


@pytest.mark.parametrize(
    ("where", "chosen"),
    [
        ({}, [3, 2, 1, 0]),
        ({"states": frozenset({TaskState.RUNNING})}, [1]),
        ({"states": frozenset(TaskState)}, [3, 2, 1, 0]),
        ({"states": frozenset()}, []),
        ({"model": "other"}, [2]),
        ({"label": "l"}, [3, 0]),
        ({"label": "l", "custom_id": "c"}, [3]),
        ({"custom_id": "c"}, [3]),
        ({"request_id": "r"}, [2]),
        ({"batch_id": new_id()}, []),
        ({"created_from": seeds.later(1)}, [3, 2, 1]),
        ({"created_to": seeds.later(1)}, [0]),
        ({"created_from": seeds.later(1), "created_to": seeds.later(3)}, [2, 1]),
    ],
)
async def test_a_filter_chooses(database: Database, where: dict[str, Any], chosen: list[int]) -> None:
    key = await seeds.a_key(database)
    changes: list[dict[str, Any]] = [
        {"label": "l"},
        {},
        {"model": "other", "request_id": "r"},
        {"label": "l", "custom_id": "c"},
    ]
    new = [seeds.a_task(key, created_at=seeds.later(n), **change) for n, change in enumerate(changes)]
    await seeds.submit(database, new)
    await seeds.claim(database, new[1].id)
    assert await page(database, key.project_id, **where) == [new[n].id for n in chosen]


async def test_who_waits_learns_which_have_ended(database: Database) -> None:
    key = await seeds.a_key(database)
    ended, going = await seeds.running(database, key), await seeds.running(database, key)
    (waiting,) = await seeds.queued(database, key)
    await seeds.settle(database, seeds.success(ended))
    async with database.read() as connection:
        assert await tasks.ended_among(connection, [ended.id, going.id, waiting, new_id()]) == {ended.id}
        assert await tasks.ended_among(connection, []) == set()
