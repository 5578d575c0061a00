"""The beat's round over open batches."""

from __future__ import annotations

import logging
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
import sqlalchemy as sa

from tests.store import seeds, spending
from tests.store.batch_seeds import differing, found, made, taken_in, tell
from tests.worker.test_announcer import announcer_of
from tests.worker.world import World
from tollgate.domain.batches import Batch, BatchState, PauseCode
from tollgate.domain.budgets import Period
from tollgate.domain.errors import StoreUnavailableError
from tollgate.domain.states import TaskState
from tollgate.store import batch_course, batch_pauses, batches
from tollgate.store.database import Database
from tollgate.store.schema import batches as batches_table
from tollgate.store.schema import tasks
from worker import announcer as announcer_module
from worker.batches import Batches


async def cancel(database: Database, batch: Batch) -> None:
    async with database.write() as connection:
        await batches.cancel(connection, batch.id, now=datetime.now(UTC))


async def settled(world: World, ids: list[UUID], judge: Any = seeds.success) -> None:
    await tell(world.database)
    claimed = await seeds.claim(world.database, *ids)
    await seeds.settle(world.database, *(judge(task) for task in claimed))


async def test_a_round_ends_what_is_done_and_leaves_the_rest(world: World) -> None:
    done, ids = await taken_in(world.database, world.key)
    await settled(world, ids)
    waiting, _ = await taken_in(world.database, world.key)
    reading = await made(world.database, world.key)
    beat = Batches(world.database)
    assert await beat.round() == [done.id]
    assert await beat.round() == []
    states = [(await found(world.database, batch)).state for batch in (done, waiting, reading)]
    assert states == [BatchState.COMPLETED, BatchState.IN_PROGRESS, BatchState.VALIDATING]


async def test_a_round_lifts_a_pause_that_is_over(world: World) -> None:
    await spending.a_budget(world.database, world.key, period=Period.DAY)
    batch, _ = await taken_in(world.database, world.key)
    yesterday = datetime.now(UTC) - timedelta(days=1)
    async with world.database.write() as connection:
        assert await batch_pauses.begin(connection, batch.id, code=PauseCode.BUDGET, why="full", now=yesterday)
    await Batches(world.database).round()
    assert (await found(world.database, batch)).paused_at is None


async def test_two_and_a_half_thousand_queued_lines_are_cancelled_in_rounds(world: World) -> None:
    batch, ids = await taken_in(world.database, world.key, count=2_500)
    await tell(world.database)
    [task] = await seeds.claim(world.database, ids[7])
    await cancel(world.database, batch)
    beat = Batches(world.database)
    while (await found(world.database, batch)).sums.tasks_cancelled < 2_499:
        assert await beat.round() == []
    await seeds.settle(world.database, seeds.success(task))
    assert await beat.round() == [batch.id]
    over = await found(world.database, batch)
    assert (over.state, over.sums.tasks_succeeded, over.sums.tasks_cancelled) == (BatchState.CANCELLED, 1, 2_499)
    assert await differing(world.database) == set()


async def test_a_line_that_began_while_its_batch_was_cancelled_is_asked_for_in_the_next_round(world: World) -> None:
    batch, ids = await taken_in(world.database, world.key, count=1)
    await tell(world.database)
    [task] = await seeds.claim(world.database, *ids)
    async with world.database.write() as connection:
        # What a claim leaves that read the batch before it was cancelled, and committed after.
        statement = sa.update(batches_table).values(state=BatchState.CANCELLING, cancelling_at=seeds.NOW)
        await connection.execute(statement)
    await Batches(world.database).round()
    assert (await seeds.row(world.database, task.id)).cancel_requested_at is not None
    assert (await found(world.database, batch)).running == 1


async def test_a_line_that_comes_back_to_a_cancelled_batch_ends_in_the_next_round(world: World) -> None:
    batch, ids = await taken_in(world.database, world.key, count=2)
    await tell(world.database)
    [task] = await seeds.claim(world.database, ids[0])
    await cancel(world.database, batch)
    beat = Batches(world.database)
    await beat.round()
    assert (await seeds.row(world.database, ids[1])).state == TaskState.CANCELLED
    await seeds.settle(world.database, seeds.refusal(task))
    assert await beat.round() == [batch.id]


async def test_failed_lines_are_tried_again_where_it_was_asked_for(world: World) -> None:
    batch, ids = await taken_in(world.database, world.key)
    await settled(world, ids, seeds.failure)
    beat = Batches(world.database)
    await beat.round()
    async with world.database.write() as connection:
        over = await batches.find(connection, batch.id, project_id=batch.project_id)
        await batches.retry(connection, over, now=datetime.now(UTC))
    await beat.round()
    going = await found(world.database, batch)
    assert (going.state, going.sums.tasks_failed, going.retry_asked_at) == (BatchState.IN_PROGRESS, 0, None)
    assert len(await seeds.rows_of(world.database, tasks)) == 6


async def test_one_broken_batch_does_not_keep_the_others_waiting(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    made_ = [await taken_in(world.database, world.key, count=1) for _ in range(3)]
    for _, ids in made_:
        await settled(world, ids)
    broken = made_[1][0].id
    end = batch_course.end

    # Nothing that the schema allows breaks it: a bug would.
    async def breaking(connection: Any, batch_id: UUID, **options: Any) -> BatchState | None:
        if batch_id == broken:
            raise ValueError("broken")
        return await end(connection, batch_id, **options)

    monkeypatch.setattr(batch_course, "end", breaking)
    with caplog.at_level(logging.ERROR):
        ended = await Batches(world.database).round()
    assert set(ended) == {made_[0][0].id, made_[2][0].id}
    assert [record.batch_id for record in caplog.records] == [str(broken)]  # type: ignore[attr-defined]


async def test_a_database_that_is_away_ends_the_round(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    _, ids = await taken_in(world.database, world.key, count=1)
    await settled(world, ids)

    async def away(*_: Any, **__: Any) -> None:
        raise StoreUnavailableError("away")

    monkeypatch.setattr(batch_course, "end", away)
    with pytest.raises(StoreUnavailableError):
        await Batches(world.database).round()


async def test_the_lines_of_a_window_that_is_over_expire_in_one_round(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(announcer_module, "EXPIRE_AT_ONCE", 20)  # a thousand lines each would only take longer
    batch, ids = await taken_in(world.database, world.key, count=50)  # NOW is long ago
    announcer, _ = announcer_of(world)
    assert set(await announcer.expire()) == set(ids)
    assert await Batches(world.database).round() == [batch.id]
    assert (await found(world.database, batch)).state is BatchState.EXPIRED


async def test_a_round_expires_no_longer_than_its_time(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(announcer_module, "EXPIRE_AT_ONCE", 20)
    await taken_in(world.database, world.key, count=50)
    seconds = iter((0.0, 1.9, 2.0))
    announcer, _ = announcer_of(world, clock=lambda: next(seconds))
    assert len(await announcer.expire()) == 40
