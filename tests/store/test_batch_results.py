from __future__ import annotations

from dataclasses import replace
from typing import Any
from uuid import UUID

import pytest
import sqlalchemy as sa

from tests.store import batch_seeds, seeds
from tollgate.domain.errors import InvalidRequestError
from tollgate.domain.ids import new_id
from tollgate.domain.settling import Bill
from tollgate.domain.states import AttemptOutcome, TaskState
from tollgate.domain.tasks import Key
from tollgate.store import batch_course, batch_results, batches, tasks
from tollgate.store.batch_results import MANY, PAGE_BYTES, SOME, Line, Which
from tollgate.store.database import Database
from tollgate.store.schema import tasks as tasks_table
from tollgate.store.tasks import Filter


async def a_batch(database: Database, key: Key, *, count: int) -> tuple[UUID, list[UUID]]:
    """Its id and its tasks', in the order of the lines, all of them told to workers."""
    batch, ids = await batch_seeds.taken_in(database, key, count=count)
    await announced(database)
    return batch.id, ids


async def announced(database: Database) -> None:
    async with database.write() as connection:
        await connection.execute(sa.update(tasks_table).values(announced_at=seeds.NOW))


async def succeed(database: Database, ids: list[UUID], *, result: str = '{"choices":[]}', at_s: float = 0) -> None:
    for start in range(0, len(ids), 500):
        claimed = await seeds.claim(database, *ids[start : start + 500], now=seeds.later(at_s))
        await seeds.settle(database, *(seeds.success(one, result=result) for one in claimed), now=seeds.later(at_s))


async def fail(database: Database, ids: list[UUID], *, at_s: float = 0) -> None:
    claimed = await seeds.claim(database, *ids)
    await seeds.settle(database, *(seeds.failure(one) for one in claimed), now=seeds.later(at_s))


async def by_line(database: Database, batch_id: UUID, which: Which = Which.ALL, **asked: Any) -> list[Line]:
    async with database.read() as connection:
        return await batch_results.by_line(connection, batch_id, which=which, **{"after": 0, "until": 10**9, **asked})


async def by_end(database: Database, batch_id: UUID, which: Which = Which.ALL, **asked: Any) -> list[int]:
    async with database.read() as connection:
        return [one.line for one in await batch_results.by_end(connection, batch_id, which=which, **asked)]


async def test_a_line_comes_with_its_answer_and_all_that_was_bought(database: Database) -> None:
    key = await seeds.a_key(database)
    batch_id, (first, second, _) = await a_batch(database, key, count=3)
    (claimed,) = await seeds.claim(database, first)
    await seeds.settle(database, seeds.doubt(claimed), now=seeds.later(1))
    await announced(database)
    await succeed(database, [first], result='{"a":1}', at_s=2)
    await fail(database, [second], at_s=3)
    one, two, three = await by_line(database, batch_id, with_input=True)
    assert (one.id, one.line, one.custom_id, one.model, one.endpoint) == (first, 1, "line-1", "glm-4.7", "chat")
    assert (one.state, one.result, one.error_code) == (TaskState.SUCCEEDED, '{"a":1}', None)
    assert one.input == '{"model":"glm-4.7"}'
    assert (one.created_at, one.ended_at) == (seeds.NOW, seeds.later(2))
    assert [(a.outcome, a.cost_nano, a.possible_cost_nano) for a in one.attempts] == [
        (AttemptOutcome.UNCERTAIN, None, 700_000), (AttemptOutcome.SUCCEEDED, 600_000, None),
    ]  # fmt: skip
    assert (two.state, two.result, two.error_code, two.error_message) == (
        TaskState.FAILED, None, "1210", "bad call",
    )  # fmt: skip
    assert (three.state, three.ended_at, three.attempts) == (TaskState.QUEUED, None, ())
    assert [line.input for line in await by_line(database, batch_id)] == [None] * 3


async def test_a_page_holds_the_lines_that_are_asked_for_and_those_that_have_not_ended(database: Database) -> None:
    key = await seeds.a_key(database)
    batch_id, ids = await a_batch(database, key, count=6)
    await succeed(database, [ids[0], ids[3], ids[5]])
    await fail(database, [ids[1], ids[4]])
    chosen = {which: [line.line for line in await by_line(database, batch_id, which)] for which in Which}
    assert chosen == {Which.ALL: [1, 2, 3, 4, 5, 6], Which.SUCCEEDED: [1, 3, 4, 6], Which.FAILED: [2, 3, 5]}
    assert [line.line for line in await by_line(database, batch_id, after=1, until=4)] == [2, 3, 4]
    ended = await by_line(database, batch_id, Which.FAILED, ended=True)
    assert [line.line for line in ended] == [2, 5]


async def test_a_line_that_was_tried_again_stands_once(database: Database) -> None:
    key = await seeds.a_key(database)
    batch_id, ids = await a_batch(database, key, count=2)
    await fail(database, ids, at_s=1)
    async with database.write() as connection:
        batch = await batches.find(connection, batch_id, project_id=key.project_id)
        await batches.retry(connection, batch, now=seeds.later(2))
        assert await batch_course.try_again(connection, batch_id, before=seeds.later(2), now=seeds.later(2))
    await announced(database)
    again = [line.id for line in await by_line(database, batch_id)]
    assert set(again).isdisjoint(ids)
    await succeed(database, again[:1], at_s=3)
    assert await by_end(database, batch_id) == [1]
    async with database.read() as connection:
        listed = await tasks.page(
            connection, project_id=key.project_id, where=Filter(batch_id=batch_id), limit=9, after=ids[0]
        )
    assert [task.id for task in listed] == again[1:], "after a task that is no more the line's, too"


async def test_long_texts_make_short_pages(database: Database) -> None:
    key = await seeds.a_key(database)
    batch_id, ids = await a_batch(database, key, count=5)
    long = '"' + "x" * (PAGE_BYTES * 3 // 4) + '"'
    await succeed(database, ids, result=long)
    pages, after = [], 0
    while page := await by_line(database, batch_id, after=after):
        pages.append([line.line for line in page])
        after = page[-1].line
    assert pages == [[1, 2], [3, 4], [5]]
    assert await by_end(database, batch_id) == [1, 2]


async def test_a_page_is_no_longer_than_its_rows(database: Database) -> None:
    key = await seeds.a_key(database)
    batch_id, ids = await a_batch(database, key, count=MANY + 1)
    await succeed(database, ids)
    assert len(await by_line(database, batch_id)) == MANY
    assert len(await by_line(database, batch_id, rows=SOME)) == SOME
    assert await by_end(database, batch_id, rows=SOME) == list(range(1, SOME + 1))


async def test_lines_come_as_they_ended_and_by_number_where_that_was_at_once(database: Database) -> None:
    key = await seeds.a_key(database)
    batch_id, ids = await a_batch(database, key, count=6)
    await succeed(database, [ids[4]], at_s=1)
    await succeed(database, [ids[3], ids[0]], at_s=2)
    await fail(database, [ids[2]], at_s=3)
    assert await by_end(database, batch_id) == [5, 1, 4, 3]
    assert await by_end(database, batch_id, Which.SUCCEEDED) == [5, 1, 4]
    assert await by_end(database, batch_id, Which.FAILED) == [3]
    assert await by_end(database, batch_id, after=(seeds.later(2), 1)) == [4, 3]
    assert await by_end(database, batch_id, after=(seeds.later(2), 0)) == [1, 4, 3]
    assert await by_end(database, batch_id, until=seeds.later(2)) == [5, 1, 4]


async def test_the_tasks_of_a_batch_are_listed_in_the_order_of_its_input(database: Database) -> None:
    key, other = await seeds.a_key(database), await seeds.a_key(database, project="other")
    batch_id, ids = await a_batch(database, key, count=5)
    await a_batch(database, key, count=2)
    await fail(database, [ids[3], ids[1]])
    of_batch = Filter(batch_id=batch_id)

    async def page(where: Filter = of_batch, *, key: Key = key, after: UUID | None = None) -> list[UUID]:
        async with database.read() as connection:
            found = await tasks.page(connection, project_id=key.project_id, where=where, limit=3, after=after)
        assert [task.line for task in found] == sorted(task.line or 0 for task in found)
        return [task.id for task in found]

    assert await page() == ids[:3]
    assert await page(after=ids[2]) == ids[3:]
    failed = replace(of_batch, states=frozenset({TaskState.FAILED}))
    assert await page(failed) == [ids[1], ids[3]]
    assert await page(failed, after=ids[2]) == [ids[3]]
    assert await page(replace(of_batch, custom_id="line-4")) == [ids[3]]
    assert await page(key=other) == []
    with pytest.raises(InvalidRequestError, match="is no task of batch"):
        await page(after=new_id())


async def test_what_was_not_billed_costs_nothing(database: Database) -> None:
    key = await seeds.a_key(database)
    batch_id, ids = await a_batch(database, key, count=1)
    (claimed,) = await seeds.claim(database, ids[0])
    await seeds.settle(database, seeds.success(claimed, bill=Bill()))
    ((one,),) = [line.attempts for line in await by_line(database, batch_id)]
    assert (one.prompt_tokens, one.cost_nano, one.upstream, one.upstream_model) == (None, None, "zhipu", "glm-4.7")
