"""The beat erases what projects do not keep any longer, and deleted batches; see tests/store/test_erasing.py."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest

from tests.store import ledgers, seeds
from tests.store.test_batch_erasing import a_done_batch, ask, left
from tests.worker.world import World, beat_of
from tollgate.domain.errors import StoreUnavailableError
from tollgate.domain.ids import first_of
from tollgate.domain.retention import Texts
from tollgate.domain.tasks import Key
from tollgate.store import erasing, retention
from tollgate.store.database import Database
from tollgate.store.schema import projects, task_requests, task_results
from worker.erasing import Eraser

DAY_S = 86_400


def ago(days: float) -> datetime:
    return datetime.now(UTC) - timedelta(days=days)


async def keep(database: Database, key: Key, **days: int | None) -> None:
    kept = {Texts(name): None if n is None else n * DAY_S for name, n in days.items()}
    async with database.write() as connection:
        await retention.change(connection, key.project_id, kept)


async def ended(database: Database, key: Key, *, days: float, count: int = 1, submitted: float = 100) -> list[UUID]:
    """Tasks of `submitted` days ago that ended `days` ago."""
    first = first_of(ago(submitted)).int
    new = [seeds.a_task(key, id=UUID(int=first + n)) for n in range(count)]
    await seeds.submit(database, new)
    worker_id = await seeds.a_worker(database, UUID(int=first))
    leased = await seeds.claim(database, *(task.id for task in new), worker_id=worker_id)
    await seeds.settle(database, *(seeds.success(one) for one in leased), now=ago(days))
    return [task.id for task in new]


async def with_results(database: Database) -> set[UUID]:
    return {row.task_id for row in await seeds.rows_of(database, task_results) if not row.erased}


async def with_prompts(database: Database) -> set[UUID]:
    return {row.task_id for row in await seeds.rows_of(database, task_requests)}


async def place(database: Database, key: Key) -> Any:
    """Up to where a project's results are erased."""
    return next(row.results_erased_to for row in await seeds.rows_of(database, projects) if row.id == key.project_id)


async def test_each_project_keeps_what_it_says(database: Database) -> None:
    short, long, ever = [await seeds.a_key(database, project=name) for name in ("short", "long", "ever")]
    await keep(database, short, prompts=7, results=30)
    await keep(database, long, results=90)
    old = {}
    for n, key in enumerate((short, long, ever)):
        (old[key.project],) = await ended(database, key, days=40, submitted=100 + n)
    (new,) = await ended(database, short, days=10, submitted=99)
    assert await Eraser(database, at_once=2).erase_what_is_over() == 3
    assert await with_results(database) == {old["long"], old["ever"], new}
    assert await with_prompts(database) == {old["long"], old["ever"]}
    assert await Eraser(database, at_once=2).erase_what_is_over() == 0
    assert await ledgers.differing(database) == {}


async def test_a_walk_takes_as_many_steps_as_it_needs_and_the_next_begins_where_it_ended(database: Database) -> None:
    key = await seeds.a_key(database)
    await keep(database, key, results=30)
    ids = await ended(database, key, days=40, count=5)
    assert await Eraser(database, at_once=2).erase_what_is_over() == 5
    assert (await with_results(database), await place(database, key)) == (set(), ids[-1])
    (later,) = await ended(database, key, days=35, submitted=90)
    assert await Eraser(database, at_once=2).erase_what_is_over() == 1
    assert await place(database, key) == later


async def test_what_is_open_or_ended_lately_is_kept_and_holds_up_nothing(database: Database) -> None:
    key = await seeds.a_key(database)
    await keep(database, key, prompts=30, results=30)
    first = await ended(database, key, days=40, count=3, submitted=100)
    waits = UUID(int=first_of(ago(99)).int)
    await seeds.queued(database, key, id=waits)
    (lately,) = await ended(database, key, days=1, submitted=98)
    await ended(database, key, days=40, count=3, submitted=97)
    assert await Eraser(database, at_once=2).erase_what_is_over() == 12, "six tasks, prompts and results each"
    assert await with_results(database) == {lately}
    assert await with_prompts(database) == {lately, waits}
    assert await place(database, key) == first[-1]

    # Found by a later walk, once they are due.
    worker_id = await seeds.a_worker(database, waits)
    (leased,) = await seeds.claim(database, waits, worker_id=worker_id)
    await seeds.settle(database, seeds.success(leased), now=ago(31))
    await keep(database, key, prompts=30, results=None)
    assert await Eraser(database, at_once=2).erase_what_is_over() == 1
    assert await with_prompts(database) == {lately}


async def test_a_walk_that_breaks_off_goes_on_where_it_was_committed(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = await seeds.a_key(database)
    await keep(database, key, results=30)
    ids = await ended(database, key, days=40, count=5)
    note, steps = retention.note, 0

    async def dying(*args: Any, **named: Any) -> None:
        nonlocal steps
        steps += 1
        if steps == 2:
            raise StoreUnavailableError("gone")
        await note(*args, **named)

    with monkeypatch.context() as patched:
        patched.setattr(retention, "note", dying)  # the second step is not committed
        with pytest.raises(StoreUnavailableError):
            await Eraser(database, at_once=2).erase_what_is_over()
    assert await with_results(database) == set(ids[2:])
    assert await place(database, key) == ids[1]
    assert await Eraser(database, at_once=2).erase_what_is_over() == 3
    assert (await with_results(database), await place(database, key)) == (set(), ids[-1])


async def test_two_beats_at_once_erase_all_of_it(postgres: Database) -> None:
    key = await seeds.a_key(postgres)
    await keep(postgres, key, prompts=30, results=30)
    ids = await ended(postgres, key, days=40, count=95)
    await asyncio.gather(*(Eraser(postgres, at_once=10).erase_what_is_over() for _ in range(2)))
    assert (await with_results(postgres), await with_prompts(postgres)) == (set(), set())
    assert await place(postgres, key) == ids[-1]


async def test_what_a_task_lost_before_is_no_work(database: Database) -> None:
    key = await seeds.a_key(database)
    (task_id,) = await ended(database, key, days=40)
    async with database.write() as connection:
        await erasing.erase_task(connection, task_id, project_id=key.project_id)
    await keep(database, key, prompts=30, results=30)
    assert await Eraser(database, at_once=2).erase_what_is_over() == 0
    assert await place(database, key) == task_id


async def test_a_round_of_the_beat_erases_both(world: World) -> None:
    key = await seeds.a_key(world.database, project="erasing")
    await keep(world.database, key, prompts=30, results=30)
    await ended(world.database, key, days=40)
    batch_id = await a_done_batch(world.database, key, good=2, failed=1, invalid=1)
    await ask(world.database, batch_id, key)
    await beat_of(world.database, world.bus, None).round()
    assert await left(world.database) == (0, 0, 0)


async def test_deleted_batches_are_erased_in_turn(database: Database) -> None:
    key = await seeds.a_key(database)
    both = [await a_done_batch(database, key, good=1, failed=0) for _ in range(2)]
    kept = await a_done_batch(database, key, good=1, failed=0)
    for batch_id in both:
        await ask(database, batch_id, key)
    assert await Eraser(database).erase_deleted_batches() == both
    assert await Eraser(database).erase_deleted_batches() == []
    assert await left(database) == (1, 1, 0)
    assert kept not in both
