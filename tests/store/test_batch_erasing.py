"""Deleting a batch: gone at once for who asks, erased in steps, and its accounts stay."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import replace
from datetime import datetime
from typing import Any
from uuid import UUID

import pytest
import sqlalchemy as sa

from tests.store import batch_seeds, ledgers, seeds
from tests.store.test_erasing import accounts
from tollgate.domain.batches import BatchState, NewBatch, Via
from tollgate.domain.errors import InvalidRequestError, NotFoundError, StillOpenError
from tollgate.domain.ids import new_id
from tollgate.domain.states import Priority
from tollgate.domain.tasks import Key
from tollgate.store import batch_course, batch_erasing, batch_intake, batches, erasing, files
from tollgate.store.batch_intake import InvalidLine, Step
from tollgate.store.claims import Claimed
from tollgate.store.database import Database
from tollgate.store.files import File
from tollgate.store.schema import batches as batch_table
from tollgate.store.schema import files as file_table
from tollgate.store.schema import invalid_lines, task_requests, task_results, tasks


async def a_file(database: Database, key: Key, **changes: Any) -> UUID:
    plain = File(
        id=new_id(), project_id=key.project_id, key_id=key.id, filename="prompts.jsonl", purpose="batch", bytes=9,
        lines=1, sha256="0" * 64, batch_id=None, created_at=seeds.NOW, expires_at=None,
    )  # fmt: skip
    one = replace(plain, **changes)
    async with database.write() as connection:
        await files.add(connection, one)
    return one.id


async def a_batch(database: Database, key: Key, *, ended_at: datetime | None = None, **changes: Any) -> UUID:
    """Still validating, or completed."""
    plain = NewBatch(
        id=new_id(), project_id=key.project_id, key_id=key.id, request_id=None, digest="0" * 64,
        endpoint="/v1/chat/completions", name="prompts.jsonl", input_file_id=new_id(), input_bytes=100, total=3,
        delete_input=False, via=Via.DIRECT, priority=Priority.BULK, strict=False, defaults=None, max_cost_nano=None,
        metadata=None, callback_url=None, window_s=86_400, created_at=seeds.NOW, expires_at=seeds.later(86_400),
    )  # fmt: skip
    async with database.write() as connection:
        one, _ = await batches.add(connection, replace(plain, **changes))
    if ended_at is not None:
        await change(database, one.id, state=BatchState.COMPLETED, ended_at=ended_at)
    return one.id


async def change(database: Database, batch_id: UUID, **values: Any) -> None:
    async with database.write() as connection:
        await connection.execute(sa.update(batch_table).where(batch_table.c.id == batch_id).values(**values))


async def a_done_batch(
    database: Database, key: Key, *, good: int, failed: int, invalid: int = 0, **changes: Any
) -> UUID:
    """Its good lines come first, then those that fail, and then those that are none."""
    batch_id = await a_batch(database, key, total=good + failed + invalid, **changes)
    lane = {"batch_id": batch_id, "feed": batch_id, "lane": "cloud.bulk"}
    new = [seeds.a_task(key, line=line + 1, custom_id=f"c{line}", **lane) for line in range(good + failed)]
    wrong = [InvalidLine(line=good + failed + n + 1, code="wrong", message="SECRET") for n in range(invalid)]
    count = good + failed + invalid
    step = Step(lines=new, invalid=wrong, before_bytes=0, after_bytes=100, after_lines=count, last=True)
    async with database.write() as connection:
        assert await batch_intake.take_in(connection, batch_id, step, now=seeds.NOW)
    leased = await claimed(database, *(task.id for task in new))
    of_line = {task.id: task.line or 0 for task in new}
    ends = [seeds.success(one) if of_line[one.id] <= good else seeds.failure(one) for one in leased]
    await seeds.settle(database, *ends)
    await change(database, batch_id, state=BatchState.COMPLETED, ended_at=seeds.NOW)
    return batch_id


async def claimed(database: Database, *ids: UUID, now: datetime = seeds.NOW) -> list[Claimed]:
    """Told to a worker before."""
    assert set(await batch_seeds.tell(database, now=now)) == set(ids)
    return await seeds.claim(database, *ids, worker_id=await seeds.a_worker(database, new_id()), now=now)


async def ask(database: Database, batch_id: UUID, key: Key) -> None:
    async with database.write() as connection:
        await batch_erasing.ask(connection, batch_id, project_id=key.project_id, now=seeds.later(60))


async def step(database: Database, batch_id: UUID, *, limit: int = 2) -> bool:
    async with database.write() as connection:
        return await batch_erasing.step(connection, batch_id, now=seeds.later(70), limit=limit)


async def step_and_die(database: Database, batch_id: UUID) -> None:
    """Before it is committed."""
    with contextlib.suppress(asyncio.CancelledError):
        async with database.write() as connection:
            await batch_erasing.step(connection, batch_id, now=seeds.NOW)
            raise asyncio.CancelledError


async def asked(database: Database) -> list[UUID]:
    async with database.read() as connection:
        return await batch_erasing.asked(connection)


async def row(database: Database, batch_id: UUID) -> Any:
    return next(one for one in await seeds.rows_of(database, batch_table) if one.id == batch_id)


async def left(database: Database) -> tuple[int, int, int]:
    """Prompts, results, and reasons of invalid lines."""
    results = [one for one in await seeds.rows_of(database, task_results) if not one.erased]
    invalid = [one for one in await seeds.rows_of(database, invalid_lines) if one.message]
    return await seeds.size(database, task_requests), len(results), len(invalid)


async def test_a_step_erases_some_lines_and_commits_its_place(database: Database) -> None:
    key = await seeds.a_key(database)
    batch_id = await a_done_batch(database, key, good=2, failed=1, invalid=2)
    before = await accounts(database)
    await ask(database, batch_id, key)
    assert await left(database) == (3, 3, 2), "answered at once"
    places = []
    while await step(database, batch_id):
        places.append(((await row(database, batch_id)).erased_lines, await left(database)))
    assert places == [(2, (1, 1, 2)), (4, (0, 0, 1))]
    assert await left(database) == (0, 0, 0)
    ended = await row(database, batch_id)
    assert (ended.erased_lines, ended.erased_at) == (5, seeds.later(70))
    assert (await asked(database), await step(database, batch_id)) == ([], False)
    assert await accounts(database) == before
    assert await ledgers.differing(database) == {}


async def test_a_step_that_is_not_committed_is_done_again(database: Database) -> None:
    key = await seeds.a_key(database)
    batch_id = await a_done_batch(database, key, good=2, failed=1)
    await ask(database, batch_id, key)
    await step_and_die(database, batch_id)
    assert (await left(database), await asked(database)) == ((3, 3, 0), [batch_id])
    await step(database, batch_id, limit=3)
    assert (await left(database), await asked(database)) == ((0, 0, 0), [])


async def test_who_comes_while_another_is_at_it_does_nothing(postgres: Database) -> None:
    key = await seeds.a_key(postgres)
    batch_id = await a_done_batch(postgres, key, good=1, failed=0)
    await ask(postgres, batch_id, key)
    async with postgres.write() as connection:
        await batch_erasing.step(connection, batch_id, now=seeds.NOW)
        assert await step(postgres, batch_id) is False
    assert (await row(postgres, batch_id)).erased_at == seeds.NOW


async def test_it_is_there_for_nobody_and_its_own_texts_are_gone_at_once(database: Database) -> None:
    key = await seeds.a_key(database)
    texts = {"defaults": '{"system":"SECRET"}', "metadata": '"SECRET"', "name": "SECRET", "callback_url": "SECRET"}
    batch_id = await a_batch(database, key, ended_at=seeds.NOW, request_id="once", **texts)
    await change(database, batch_id, error_code="e", error_message="SECRET")
    await ask(database, batch_id, key)
    assert "SECRET" not in str(await row(database, batch_id))
    async with database.read() as connection:
        with pytest.raises(NotFoundError):
            await batches.find(connection, batch_id, project_id=key.project_id)
        assert await batches.page(connection, project_id=key.project_id, limit=9) == []
    with pytest.raises(NotFoundError):
        await ask(database, batch_id, key)
    with pytest.raises(InvalidRequestError, match="made a batch that was deleted since"):
        await a_batch(database, key, request_id="once")


async def test_one_that_is_open_or_a_strangers_stays(database: Database) -> None:
    key, stranger = await seeds.a_key(database), await seeds.a_key(database, project="other")
    batch_id = await a_batch(database, key)
    with pytest.raises(StillOpenError, match="is validating: cancel it first"):
        await ask(database, batch_id, key)
    await change(database, batch_id, state=BatchState.COMPLETED, ended_at=seeds.NOW)
    with pytest.raises(NotFoundError):
        await ask(database, batch_id, stranger)
    async with database.read() as connection:
        assert (await batches.find(connection, batch_id, project_id=key.project_id)).id == batch_id


async def test_its_views_and_its_input_go_unless_another_batch_is_made_of_that(database: Database) -> None:
    key = await seeds.a_key(database)
    shared = await a_file(database, key)
    first, second = [await a_batch(database, key, input_file_id=shared, ended_at=seeds.NOW) for _ in range(2)]
    view = await a_file(database, key, purpose="batch_output", sha256=None, batch_id=first)
    await ask(database, first, key)
    assert {one.id for one in await seeds.rows_of(database, file_table)} == {shared}
    assert view != shared
    await ask(database, second, key)
    assert await seeds.size(database, file_table) == 0


async def retry(database: Database, batch_id: UUID, key: Key) -> None:
    async with database.write() as connection:
        one = await batches.find(connection, batch_id, project_id=key.project_id)
        await batches.retry(connection, one, now=seeds.later(10))
    async with database.write() as connection:
        await batch_course.try_again(connection, batch_id, before=seeds.later(10), now=seeds.later(10))


async def test_lines_that_were_tried_again_are_erased_with_what_they_were_before(database: Database) -> None:
    key = await seeds.a_key(database)
    batch_id = await a_done_batch(database, key, good=1, failed=2)
    await retry(database, batch_id, key)
    waiting = [one.id for one in await seeds.rows_of(database, tasks) if one.state == "queued"]
    again = await claimed(database, *waiting, now=seeds.later(20))
    await seeds.settle(database, *(seeds.success(one) for one in again))
    await change(database, batch_id, state=BatchState.COMPLETED, ended_at=seeds.NOW)
    assert await left(database) == (5, 5, 0)
    await ask(database, batch_id, key)
    assert await step(database, batch_id, limit=3) is False
    assert await left(database) == (0, 0, 0)


async def test_a_line_whose_prompt_was_erased_is_not_tried_again(database: Database) -> None:
    key = await seeds.a_key(database)
    batch_id = await a_done_batch(database, key, good=0, failed=2)
    first = next(one.id for one in await seeds.rows_of(database, tasks) if one.line == 1)
    async with database.write() as connection:
        await erasing.erase_task(connection, first, project_id=key.project_id)
    await retry(database, batch_id, key)
    lines = [(one.line, one.state, one.superseded) for one in await seeds.rows_of(database, tasks)]
    assert sorted(lines) == [(1, "failed", False), (2, "failed", True), (2, "queued", False)]


async def test_a_retry_of_nothing_but_erased_prompts_is_refused(database: Database) -> None:
    key = await seeds.a_key(database)
    batch_id = await a_done_batch(database, key, good=1, failed=2)
    async with database.write() as connection:
        await connection.execute(sa.delete(task_requests))
    with pytest.raises(InvalidRequestError, match="the prompts of the lines that failed were erased"):
        await retry(database, batch_id, key)
