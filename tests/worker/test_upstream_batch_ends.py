"""Upstream batches that are stopped: by a cancel, a pause, the end of the window; what was paid is kept."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from tests.store import seeds
from tests.worker.batch_world import BatchWorld
from tests.worker.world import World, until
from tollgate.domain.batches import BatchState, PauseCode
from tollgate.domain.states import TaskState
from tollgate.store import batches, cancels
from tollgate.store.schema import tasks


async def half_done(world: World, *, lines: int = 40, **changes: Any) -> tuple[BatchWorld, UUID]:
    """A batch of which the upstream has finished some lines, and has most to do."""
    bw = await BatchWorld.begin(world, latency_s=8.0)
    batch_id = await bw.batch(*(f"prompt {number}" for number in range(lines)), **changes)
    bw.buyer()

    async def some_are_paid() -> bool:
        return bw.simulator.bill.charges > 0

    await until(some_are_paid)
    return bw, batch_id


async def test_a_cancel_stops_the_upstream_and_keeps_what_was_paid(world: World) -> None:
    bw, batch_id = await half_done(world)
    async with world.database.write() as connection:
        assert await batches.cancel(connection, batch_id, now=datetime.now(UTC))
    batch = await bw.ended(batch_id)
    assert batch.state is BatchState.CANCELLED
    assert batch.sums.tasks_succeeded == bw.simulator.bill.charges
    assert 0 < batch.sums.tasks_succeeded < 40
    assert batch.sums.tasks_cancelled == 40 - batch.sums.tasks_succeeded
    assert await bw.modes(batch_id) == {
        ("batch", "succeeded"): batch.sums.tasks_succeeded,
        ("batch", "failed"): batch.sums.tasks_cancelled,
    }
    assert bw.simulator.stats.requests["batch_cancel"] >= 1
    await bw.assert_books_agree()


async def test_a_cancel_before_it_is_created_buys_nothing(world: World) -> None:
    bw = await BatchWorld.begin(world)
    batch_id = await bw.batch("one", "two")
    buyer = bw.buyer(start=False)
    await buyer._gather(bw.engine.lease.worker_id)
    async with world.database.write() as connection:
        assert await batches.cancel(connection, batch_id, now=datetime.now(UTC))
    buyer.start()
    batch = await bw.ended(batch_id)
    assert (batch.state, batch.sums.tasks_cancelled) == (BatchState.CANCELLED, 2)
    assert bw.simulator.bill.charges == bw.simulator.stats.requests["batch_create"] == 0
    await bw.assert_books_agree()


async def test_a_line_that_its_owner_cancelled_stays_so_and_is_booked(world: World) -> None:
    bw, batch_id = await half_done(world, lines=4)
    rows = {row.line: row for row in await seeds.rows_of(world.database, tasks)}
    async with world.database.write() as connection:
        for line in (1, 4):
            await cancels.cancel(connection, rows[line].id, project_id=world.key.project_id, now=datetime.now(UTC))
    batch = await bw.ended(batch_id)
    assert (batch.sums.tasks_succeeded, batch.sums.tasks_cancelled) == (2, 2)
    assert bw.simulator.bill.charges == 4  # the upstream knows nothing of it
    await bw.until_bought(batch_id, "ended")
    assert batch.state is BatchState.COMPLETED
    assert await bw.modes(batch_id) == {("batch", "succeeded"): 4}
    assert await world.state(rows[1].id) is TaskState.CANCELLED
    await bw.assert_books_agree()


async def test_the_windows_end_stops_the_upstream_and_the_rest_runs_directly(world: World) -> None:
    bw, batch_id = await half_done(world)
    await bw.change(batch_id, expires_at=datetime.now(UTC) + timedelta(seconds=60))  # of an hour's window
    batch = await bw.ended(batch_id)
    modes = await bw.modes(batch_id)
    assert (batch.state, batch.sums.tasks_succeeded) == (BatchState.COMPLETED, 40)
    assert 0 < modes["batch", "succeeded"] < 40
    assert modes["direct", "succeeded"] == 40 - modes["batch", "succeeded"]
    await bw.assert_books_agree()


async def test_near_the_windows_end_nothing_more_is_grouped(world: World) -> None:
    bw = await BatchWorld.begin(world)
    batch_id = await bw.batch("one", "two")
    await bw.change(batch_id, expires_at=datetime.now(UTC) + timedelta(seconds=60))
    bw.buyer()
    batch = await bw.ended(batch_id)
    assert (batch.sums.tasks_succeeded, await bw.modes(batch_id)) == (2, {("direct", "succeeded"): 2})
    assert await bw.bought(batch_id) == []


async def test_a_paused_batch_begins_no_upstream_batch(world: World) -> None:
    bw = await BatchWorld.begin(world)
    batch_id = await bw.batch("one", "two")
    buyer = bw.buyer(start=False)
    await buyer._gather(bw.engine.lease.worker_id)
    async with world.database.write() as connection:
        await batches.pause(connection, batch_id, code=PauseCode.OWNER, why="asked", now=datetime.now(UTC))
    buyer.start()

    async def was_looked_at() -> bool:
        (row,) = await bw.bought(batch_id)
        return bool(row.next_at > row.created_at)

    await until(was_looked_at)
    assert bw.simulator.stats.requests["file_upload"] == 0
    async with world.database.write() as connection:
        await batches.resume(connection, await bw.stands(batch_id), now=datetime.now(UTC))
    assert (await bw.ended(batch_id)).sums.tasks_succeeded == 2
    await bw.assert_books_agree()
