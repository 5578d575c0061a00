"""Batches as their owners make, see and steer them."""

from __future__ import annotations

import asyncio
from typing import Any, cast
from uuid import UUID

import pytest
import sqlalchemy as sa

from tests.store import seeds
from tests.store.batch_seeds import a_line, a_step, cancelled, differing, found, made, take_in, taken_in, tell
from tollgate.domain.batches import NO_SUMS, Batch, BatchState, NewBatch, PauseCode
from tollgate.domain.errors import InvalidRequestError, NotFoundError, RequestIdConflictError
from tollgate.domain.ids import new_id
from tollgate.domain.settling import Bill
from tollgate.domain.states import TaskState
from tollgate.domain.tasks import Key
from tollgate.store import batch_course, batch_intake, batch_progress, batches
from tollgate.store.batch_progress import CommonError
from tollgate.store.database import Database
from tollgate.store.schema import tasks


@pytest.fixture
async def key(database: Database) -> Key:
    return await seeds.a_key(database)


async def cancel(database: Database, batch: Batch) -> bool:
    async with database.write() as connection:
        return await batches.cancel(connection, batch.id, now=seeds.NOW)


async def retry(database: Database, batch: Batch, *, after_s: float = 9.0) -> Batch:
    async with database.write() as connection:
        fresh = await batches.find(connection, batch.id, project_id=batch.project_id)
        await batches.retry(connection, fresh, now=seeds.later(after_s))
    return await found(database, batch)


async def end(database: Database, batch: Batch, *, after_s: float = 5.0) -> BatchState | None:
    async with database.write() as connection:
        return await batch_course.end(connection, batch.id, now=seeds.later(after_s))


async def test_a_batch_begins_without_anything_taken_in(database: Database, key: Key) -> None:
    batch = await made(database, key, total=7)
    assert (batch.state, batch.total, batch.accepted, batch.open) == (BatchState.VALIDATING, 7, 0, 7)
    assert (batch.sums, batch.running, batch.paused_code) == (NO_SUMS, 0, None)


async def test_one_request_id_makes_one_batch(database: Database, key: Key) -> None:
    first = await made(database, key, request_id="r")
    assert (await made(database, key, request_id="r")).id == first.id
    with pytest.raises(RequestIdConflictError):
        await made(database, key, request_id="r", digest="1" * 64)
    other = await seeds.a_key(database, project="other")
    assert (await made(database, other, request_id="r")).id != first.id


async def test_a_batch_asked_for_again_in_the_same_words_is_known_for_a_while(database: Database, key: Key) -> None:
    file_id = new_id()
    first = await made(database, key, input_file_id=file_id)

    async def known(since_s: float, **changes: Any) -> UUID | None:
        again = await made(database, key, **{"input_file_id": file_id, **changes})
        async with database.read() as connection:
            same = await batches.repeated(connection, cast(NewBatch, again), since=seeds.later(since_s))
        return None if same is None else same.id

    assert await known(0) == first.id
    assert await known(1) is None
    assert await known(0, digest="1" * 64) != first.id


async def test_another_projects_batch_is_not_there(database: Database, key: Key) -> None:
    batch = await made(database, key)
    other = await seeds.a_key(database, project="other")
    async with database.read() as connection:
        with pytest.raises(NotFoundError):
            await batches.find(connection, batch.id, project_id=other.project_id)
        assert await batches.page(connection, project_id=other.project_id, limit=9) == []


async def test_a_page_is_newest_first_and_goes_on_after_one(database: Database, key: Key) -> None:
    ids = [(await made(database, key)).id for _ in range(4)]
    async with database.write() as connection:
        await batches.cancel(connection, ids[1], now=seeds.NOW)
    states = [BatchState.VALIDATING]
    async with database.read() as connection:
        first = await batches.page(connection, project_id=key.project_id, limit=2)
        rest = await batches.page(connection, project_id=key.project_id, limit=9, after=first[-1].id, states=states)
    assert [batch.id for batch in (*first, *rest)] == [ids[3], ids[2], ids[0]]


async def test_a_batch_shows_what_runs_and_what_it_came_to(database: Database, key: Key) -> None:
    batch, ids = await taken_in(database, key)
    await tell(database)
    one, _ = await seeds.claim(database, *ids[:2])
    await seeds.settle(database, seeds.success(one))
    seen = await found(database, batch)
    assert (seen.running, seen.open, seen.sums.tasks_succeeded, seen.sums.cost_nano) == (1, 2, 1, 600_000)
    assert (seen.sums.prompt_tokens, seen.sums.cached_tokens, seen.sums.completion_tokens) == (100, 20, 50)


async def test_cancelling_asks_for_what_runs_and_lets_nothing_begin(database: Database, key: Key) -> None:
    batch, ids = await taken_in(database, key)
    await tell(database)
    (task,) = await seeds.claim(database, ids[0])
    assert await cancel(database, batch)
    assert not await cancel(database, batch)
    rows = {row.id: row for row in await seeds.rows_of(database, tasks)}
    assert [rows[i].cancel_requested_at for i in ids] == [seeds.NOW, None, None]
    await seeds.settle(database, seeds.refusal(task))
    assert (await seeds.row(database, task.id)).state == TaskState.CANCELLED


async def test_cancelling_locks_running_lines_in_the_order_that_settlers_do(postgres: Database) -> None:
    key = await seeds.a_key(postgres)
    batch, ids = await taken_in(postgres, key)
    await tell(postgres)
    await seeds.claim(postgres, *ids)
    # The order of the heap is the other one now.
    async with postgres.write() as connection:
        await connection.execute(sa.update(tasks).where(tasks.c.id == min(ids)).values(tries=1))
    async with postgres.write() as settler:
        await settler.execute(sa.select(tasks.c.id).where(tasks.c.id == min(ids)).with_for_update())
        cancelling = asyncio.create_task(cancel(postgres, batch))
        await seeds.until_waiting(postgres)
        await settler.execute(sa.select(tasks.c.id).where(tasks.c.id == max(ids)).with_for_update())
    assert await cancelling


async def test_an_ended_batch_cannot_be_paused_or_cancelled(database: Database, key: Key) -> None:
    batch, _ = await taken_in(database, key, count=1)
    await cancel(database, batch)
    async with database.write() as connection:
        told: dict[str, Any] = {"code": PauseCode.OWNER, "why": "asked", "now": seeds.NOW}
        assert not await batches.pause(connection, batch.id, **told)


async def test_there_must_be_something_to_try_again(database: Database, key: Key) -> None:
    batch, _ = await taken_in(database, key)
    with pytest.raises(InvalidRequestError, match="no line of this batch has failed"):
        await retry(database, batch)
    reading = await made(database, key)
    with pytest.raises(InvalidRequestError, match="the batch is validating"):
        await retry(database, reading)
    await cancel(database, batch)
    with pytest.raises(InvalidRequestError, match="the batch is cancelling"):
        await retry(database, batch)


async def test_a_batch_that_failed_whole_is_not_tried_again(database: Database, key: Key) -> None:
    batch = await made(database, key, total=0)
    async with database.write() as connection:
        assert await batch_intake.refuse(connection, batch.id, code="empty_file", message="empty", now=seeds.NOW)
    with pytest.raises(InvalidRequestError, match="make another batch of its file"):
        await retry(database, batch)


async def test_a_retry_that_was_asked_for_before_the_batch_ended_is_not_lost(database: Database, key: Key) -> None:
    batch, ids = await taken_in(database, key, count=1)
    await tell(database)
    (task,) = await seeds.claim(database, *ids)
    await seeds.settle(database, seeds.failure(task))
    seen = await found(database, batch)
    assert await end(database, batch) is BatchState.COMPLETED
    async with database.write() as connection:
        await batches.retry(connection, seen, now=seeds.later(9))
    again = await found(database, batch)
    assert (again.state, again.retry_asked_at, again.ended_at) == (BatchState.IN_PROGRESS, seeds.later(9), None)


async def test_a_batch_that_was_cancelled_while_it_was_read_is_read_on(database: Database, key: Key) -> None:
    batch = await made(database, key, total=2)
    await take_in(database, batch, a_step([a_line(key, batch, 1)], last=False), now=seeds.later(60))
    await cancel(database, batch)
    assert await end(database, batch) is None
    await end_queued(database, batch)
    assert await end(database, batch) is BatchState.CANCELLED
    again = await retry(database, batch)
    assert (again.state, again.retry_asked_at, again.taken_at) == (BatchState.VALIDATING, seeds.later(9), None)
    assert await take_in(database, batch, a_step([a_line(key, batch, 2)], at=1))
    async with database.write() as connection:
        assert await batch_course.try_again(connection, batch.id, before=seeds.later(9), now=seeds.later(10))
    lines = [(row.line, row.state) for row in await seeds.rows_of(database, tasks) if not row.superseded]
    assert sorted(lines) == [(1, "queued"), (2, "queued")]
    assert await differing(database) == set()


async def end_queued(database: Database, batch: Batch) -> None:
    """As the beat does for a batch that is being cancelled."""
    async with database.read() as connection:
        lines = await batch_course.queued(connection, batch.id)
    await seeds.settle(database, *(cancelled(line) for line in lines))


async def test_how_fast_a_batch_goes_is_what_ended_lately(database: Database, key: Key) -> None:
    batch, ids = await taken_in(database, key, count=4)
    await tell(database)
    for after_s, task in zip((1, 60, 700, 700), await seeds.claim(database, *ids), strict=True):
        await seeds.settle(database, seeds.success(task), now=seeds.later(after_s))

    async def rate(after_s: float) -> float | None:
        async with database.read() as connection:
            return await batch_progress.lines_per_second(connection, batch, now=seeds.later(after_s))

    assert await rate(100) == pytest.approx(0.04)
    assert await rate(1_000) == pytest.approx(2 / 600)
    assert await rate(9_000) is None


async def test_the_speed_of_many_lines_is_that_of_the_last_ones(
    database: Database, key: Key, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch_progress, "LAST_ENDS", 2)
    batch, ids = await taken_in(database, key, count=4)
    await tell(database)
    for after_s, task in zip((1, 50, 90, 95), await seeds.claim(database, *ids), strict=True):
        await seeds.settle(database, seeds.success(task), now=seeds.later(after_s))
    async with database.read() as connection:
        assert await batch_progress.lines_per_second(connection, batch, now=seeds.later(100)) == pytest.approx(0.2)


async def test_the_commonest_errors_come_first_with_one_line_each(database: Database, key: Key) -> None:
    batch = await made(database, key, total=6)
    await take_in(database, batch, a_step([a_line(key, batch, n) for n in range(1, 5)], [5, 6]))
    await tell(database)
    ids = [row.id for row in await seeds.rows_of(database, tasks)]
    first, second, third, fourth = sorted(await seeds.claim(database, *ids), key=lambda task: task.id)
    await seeds.settle(database, *(seeds.failure(task, error_code="1301") for task in (second, third, fourth)))
    await seeds.settle(database, seeds.failure(first, bill=Bill()))
    async with database.read() as connection:
        errors = await batch_progress.common_errors(connection, batch.id)
    assert errors == [
        CommonError(code="1301", count=3, line=2, message="bad call", task_id=second.id),
        CommonError(code="invalid_json", count=2, line=5, message="the line is not JSON", task_id=None),
        CommonError(code="1210", count=1, line=1, message="bad call", task_id=first.id),
    ]


async def test_of_many_errors_the_first_are_counted(
    database: Database, key: Key, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch_progress, "LOOKED_AT", 3)
    batch = await made(database, key, total=9)
    await take_in(database, batch, a_step([a_line(key, batch, 9)], [*range(1, 9)]))
    async with database.read() as connection:
        (error,) = await batch_progress.common_errors(connection, batch.id)
    assert (error.count, error.line) == (3, 1)
