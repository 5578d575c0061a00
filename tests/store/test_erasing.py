"""Texts are erased, and what they came to is not."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any
from uuid import UUID

import pytest
import sqlalchemy as sa

from tests.store import ledgers, seeds
from tollgate.domain.errors import NotFoundError, RequestIdConflictError, StillOpenError
from tollgate.domain.ids import new_id
from tollgate.domain.retention import ALL_TEXTS, Texts
from tollgate.domain.states import TaskState
from tollgate.store import erasing, tasks
from tollgate.store.database import Database
from tollgate.store.schema import (
    attempts,
    batch_sums,
    budget_periods,
    metadata,
    task_requests,
    task_results,
    usage_daily,
    usage_daily_totals,
    usage_hourly,
)
from tollgate.store.schema import tasks as task_table
from tollgate.store.tasks import Filter

ACCOUNTS = (task_table, usage_hourly, usage_daily, usage_daily_totals, budget_periods, batch_sums)


async def accounts(database: Database) -> Any:
    """All that is not a text."""
    found: dict[str, Any] = {table.name: sorted(await seeds.rows_of(database, table)) for table in ACCOUNTS}
    bought = [row._asdict() for row in await seeds.rows_of(database, attempts)]
    found["attempts"] = sorted(
        (str(one["task_id"]), one["number"], str({**one, "error_message": None})) for one in bought
    )
    found["results"] = sorted((row.task_id, row.attempt) for row in await seeds.rows_of(database, task_results))
    return found


async def erase(database: Database, *ids: UUID, texts: Any = ALL_TEXTS) -> None:
    async with database.write() as connection:
        await erasing.erase(connection, ids, texts)


async def erase_task(database: Database, task_id: UUID, project_id: UUID) -> None:
    async with database.write() as connection:
        await erasing.erase_task(connection, task_id, project_id=project_id)


async def result_of(database: Database, task_id: UUID) -> Any:
    return next(row for row in await seeds.rows_of(database, task_results) if row.task_id == task_id)


async def messages(database: Database) -> set[UUID]:
    """The tasks with an attempt that has one."""
    return {row.task_id for row in await seeds.rows_of(database, attempts) if row.error_message is not None}


async def test_the_accounts_are_the_same_before_and_after(database: Database) -> None:
    books = await ledgers.fill(database)
    before = await accounts(database)
    assert await ledgers.differing(database) == {}
    ended = (books.succeeded, books.failed, books.cancelled, books.doubted)
    await erase(database, *ended)
    assert await accounts(database) == before
    assert await ledgers.differing(database) == {}
    assert {row.task_id for row in await seeds.rows_of(database, task_requests)} == {books.refused, books.running}
    assert await messages(database) == {books.refused}
    for row in await seeds.rows_of(database, task_results):
        assert (row.erased, row.body, row.error_message) == (True, None, None)


async def test_no_text_of_an_erased_task_is_left_in_any_table(database: Database) -> None:
    key = await seeds.a_key(database)
    task = await seeds.running(database, key, body='{"prompt":"SECRET"}', metadata='{"who":"SECRET"}')
    await seeds.settle(database, seeds.doubt(task, error_message="you sent SECRET"))
    (again,) = await seeds.claim(database, task.id)
    await seeds.settle(database, seeds.failure(again, error_message="SECRET is refused"))
    await erase_task(database, task.id, key.project_id)
    for table in metadata.sorted_tables:
        assert "SECRET" not in str(await seeds.rows_of(database, table)), table.name


async def test_prompts_and_results_go_apart(database: Database) -> None:
    key = await seeds.a_key(database)
    first, second = [await seeds.running(database, key) for _ in range(2)]
    await seeds.settle(database, seeds.success(first), seeds.failure(second))
    await erase(database, first.id, second.id, texts=[Texts.PROMPTS])
    assert await seeds.size(database, task_requests) == 0
    assert (await result_of(database, first.id)).body == '{"choices":[]}'
    assert await messages(database) == {second.id}
    await erase(database, first.id, second.id, texts=[Texts.RESULTS])
    assert [(await result_of(database, one.id)).error_code for one in (first, second)] == ["erased", "1210"]
    assert await messages(database) == set()


async def test_to_erase_again_changes_nothing(database: Database) -> None:
    key = await seeds.a_key(database)
    task = await seeds.running(database, key)
    await seeds.settle(database, seeds.success(task))
    await erase_task(database, task.id, key.project_id)
    once = await seeds.rows_of(database, task_results)
    await erase_task(database, task.id, key.project_id)
    assert await seeds.rows_of(database, task_results) == once


async def test_an_erased_task_reads_as_one(database: Database) -> None:
    key = await seeds.a_key(database)
    good, bad, whole = [await seeds.running(database, key, metadata="{}") for _ in range(3)]
    (waits,) = await seeds.queued(database, key)
    await seeds.settle(database, seeds.success(good), seeds.failure(bad), seeds.success(whole))
    await erase(database, good.id, bad.id)
    async with database.read() as connection:
        by_id = await tasks.by_ids(connection, [good.id, bad.id, whole.id, waits], project_id=key.project_id)
        paged = await tasks.page(connection, project_id=key.project_id, where=Filter(), limit=9)
    for found in (by_id, {one.id: one for one in paged}):
        shown = [
            (found[i].erased, found[i].prompt_erased, found[i].metadata, found[i].error_code, found[i].error_message)
            for i in (good.id, bad.id, whole.id, waits)
        ]
        assert shown == [
            (True, True, None, None, None),
            (True, True, None, "1210", None),
            (False, False, "{}", None, None),
            (False, False, None, None, None),
        ]
        assert (found[good.id].result, found[good.id].answered_by) == (None, "zhipu/glm-4.7")


@pytest.mark.parametrize("state", [TaskState.QUEUED, TaskState.RUNNING])
async def test_what_has_not_ended_is_refused_and_kept(database: Database, state: TaskState) -> None:
    key = await seeds.a_key(database)
    task_id = (await seeds.queued(database, key))[0]
    if state is TaskState.RUNNING:
        await seeds.claim(database, task_id)
    with pytest.raises(StillOpenError, match=f"is {state}: cancel it first"):
        await erase_task(database, task_id, key.project_id)
    assert await seeds.size(database, task_requests) == 1


async def test_another_projects_task_is_not_found(database: Database) -> None:
    key, stranger = await seeds.a_key(database), await seeds.a_key(database, project="other")
    task = await seeds.running(database, key)
    await seeds.settle(database, seeds.success(task))
    for task_id in (task.id, new_id()):
        with pytest.raises(NotFoundError):
            await erase_task(database, task_id, stranger.project_id)
    assert (await result_of(database, task.id)).body is not None


async def test_its_request_id_still_makes_it_the_same_task(database: Database) -> None:
    key = await seeds.a_key(database)
    asked = seeds.a_task(key, request_id="once")
    await seeds.submit(database, [asked])
    (task,) = await seeds.claim(database, asked.id)
    await seeds.settle(database, seeds.success(task))
    await erase_task(database, task.id, key.project_id)
    (same,) = await seeds.submit(database, [replace(asked, id=new_id())])
    assert not isinstance(same, Exception)
    assert [(one.id, one.duplicate, one.state) for one in same] == [(task.id, True, TaskState.SUCCEEDED)]
    (other,) = await seeds.submit(database, [replace(asked, id=new_id(), digest="1" * 64)])
    assert isinstance(other, RequestIdConflictError)


async def test_a_late_answer_of_an_erased_task_is_still_booked(database: Database) -> None:
    key = await seeds.a_key(database)
    task = await seeds.running(database, key)
    await seeds.settle(database, seeds.doubt(task, state=TaskState.CANCELLED))
    await erase_task(database, task.id, key.project_id)
    await seeds.settle(database, seeds.success(task))
    (attempt,) = await seeds.rows_of(database, attempts)
    result = await result_of(database, task.id)
    assert (result.erased, result.body) == (True, None)
    assert (attempt.outcome, attempt.cost_nano) == ("succeeded", seeds.BILL.cost_nano)
    assert await ledgers.differing(database) == {}


async def test_two_who_erase_the_same_in_opposite_orders_do_not_deadlock(postgres: Database) -> None:
    key = await seeds.a_key(postgres)
    ids = await seeds.queued(postgres, key, count=300)
    leased = await seeds.claim(postgres, *ids)
    await seeds.settle(postgres, *(seeds.failure(one) for one in leased))
    both = (erase(postgres, *order) for order in (ids, ids[::-1], ids, ids[::-1]))
    await asyncio.wait_for(asyncio.gather(*both), timeout=30)
    async with postgres.read() as connection:
        left = await connection.execute(sa.select(sa.func.count()).where(~task_results.c.erased))
    assert left.scalar_one() == 0
