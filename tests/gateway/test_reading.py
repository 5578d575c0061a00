"""Many who ask for tasks share a read: each gets its own project's, as it stands."""

from __future__ import annotations

import asyncio

from gateway.reading import Reader
from tests.store import seeds
from tollgate.domain.ids import new_id
from tollgate.domain.states import TaskState
from tollgate.store.database import Database


async def test_each_gets_the_task_it_asked_for_and_nobody_anothers(database: Database) -> None:
    mine, theirs = await seeds.a_key(database), await seeds.a_key(database, project="other")
    own = [await seeds.running(database, mine) for _ in range(3)]
    foreign = await seeds.running(database, theirs)
    reader = Reader(database)
    asked = [*((one.id, mine) for one in own), (foreign.id, mine), (foreign.id, theirs), (new_id(), mine)]
    found = await asyncio.gather(*(reader.read(task_id, project_id=key.project_id) for task_id, key in asked))
    assert [task and task.id for task in found] == [*(one.id for one in own), None, foreign.id, None]


async def test_who_asks_after_a_commit_sees_it_whoever_asked_before(database: Database) -> None:
    key = await seeds.a_key(database)
    task = await seeds.running(database, key)
    reader = Reader(database)
    earlier = [asyncio.create_task(reader.read(task.id, project_id=key.project_id)) for _ in range(20)]
    await asyncio.sleep(0)  # the first of them is being read
    await seeds.settle(database, seeds.success(task), now=seeds.later(1))
    found = await reader.read(task.id, project_id=key.project_id)
    await asyncio.gather(*earlier)
    assert found is not None
    assert (found.state, len(found.attempts)) == (TaskState.SUCCEEDED, 1)
