"""How batches go on and end; and the law of their sums: they are what lines and attempts say, whatever happened."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import pytest
import sqlalchemy as sa

from tests.store import ledgers, seeds
from tests.store.batch_seeds import a_line, a_step, cancelled, differing, expired, found, made, take_in, taken_in, tell
from tests.store.test_accounts import Walk
from tests.store.test_batches import cancel, end, end_queued, retry
from tests.store.test_deliveries import an_endpoint
from tollgate.domain.batches import Batch, BatchState
from tollgate.domain.states import TaskState
from tollgate.domain.tasks import Key
from tollgate.domain.webhooks import Event
from tollgate.store import batch_course, batches
from tollgate.store.database import Database
from tollgate.store.schema import BATCH_COUNTS, batch_sums, files, invalid_lines, tasks, webhook_deliveries


@pytest.fixture
async def key(database: Database) -> Key:
    return await seeds.a_key(database)


async def settle(database: Database, ids: Sequence[UUID], judge: Any = seeds.success) -> None:
    await tell(database)
    await seeds.settle(database, *(judge(task) for task in await seeds.claim(database, *ids)))


async def renew(database: Database, batch: Batch, *, after_s: float = 9.0) -> int:
    """Until the beat has no more to do; the rounds that found something."""
    rounds = 0
    while True:
        async with database.write() as connection:
            if not await batch_course.try_again(
                connection, batch.id, before=seeds.later(after_s), now=seeds.later(after_s)
            ):
                return rounds
        rounds += 1


async def test_a_batch_ends_with_its_last_line_and_not_before(database: Database, key: Key) -> None:
    batch, ids = await taken_in(database, key)
    await settle(database, ids[:2])
    assert await end(database, batch) is None
    await settle(database, ids[2:])
    assert await end(database, batch) is BatchState.COMPLETED
    over = await found(database, batch)
    assert (over.state, over.ended_at, over.open) == (BatchState.COMPLETED, seeds.later(5), 0)
    assert await differing(database) == set()


async def test_a_batch_that_is_read_does_not_end(database: Database, key: Key) -> None:
    batch = await made(database, key)
    line = a_line(key, batch, 1)
    await take_in(database, batch, a_step([line], last=False))
    await settle(database, [line.id])
    assert await end(database, batch) is None


async def test_a_batch_ends_once(database: Database, key: Key) -> None:
    batch, ids = await taken_in(database, key, callback_url="https://example.org/told")
    await settle(database, ids)
    assert [await end(database, batch), await end(database, batch)] == [BatchState.COMPLETED, None]
    assert await seeds.size(database, webhook_deliveries) == 1


async def test_of_two_beats_at_once_one_ends_a_batch(postgres: Database) -> None:
    key = await seeds.a_key(postgres)
    batch, ids = await taken_in(postgres, key, callback_url="https://example.org/told")
    await settle(postgres, ids)
    async with postgres.write() as first:
        assert await batch_course.end(first, batch.id, now=seeds.NOW) is BatchState.COMPLETED
        second = asyncio.create_task(end(postgres, batch))
        await seeds.until_waiting(postgres)
    assert await second is None
    assert await seeds.size(postgres, webhook_deliveries) == 1
    assert await seeds.size(postgres, files) == 1


async def test_lines_that_expired_make_it_expired(database: Database, key: Key) -> None:
    batch, ids = await taken_in(database, key)
    await settle(database, ids[:2])
    await seeds.settle(database, expired(ids[2]))
    assert await end(database, batch) is BatchState.EXPIRED


async def test_what_was_cancelled_ends_cancelled_and_keeps_what_was_done(database: Database, key: Key) -> None:
    batch, ids = await taken_in(database, key)
    await settle(database, ids[:1])
    await cancel(database, batch)
    assert await end(database, batch) is None
    await end_queued(database, batch)
    assert await end(database, batch) is BatchState.CANCELLED
    over = await found(database, batch)
    assert (over.sums.tasks_succeeded, over.sums.tasks_cancelled, over.sums.tasks_failed) == (1, 2, 2)
    assert await differing(database) == set()


async def test_lines_that_somebody_set_aside_are_not_looked_at(database: Database, key: Key) -> None:
    batch, ids = await taken_in(database, key)
    async with database.read() as connection:
        found_ = await batch_course.queued(connection, batch.id, limit=2, without=ids[:1])
    assert {line.id for line in found_} == set(ids[1:])


@pytest.mark.parametrize(
    ("succeeds", "invalid", "kinds"),
    [(True, 0, {"output"}), (False, 0, {"error"}), (True, 1, {"output", "error"})],
    ids=["answers", "errors", "invalid lines"],
)
async def test_an_end_leaves_views_of_what_there_is(
    database: Database, key: Key, succeeds: bool, invalid: int, kinds: set[str]
) -> None:
    batch = await made(database, key)
    line = a_line(key, batch, 1)
    await take_in(database, batch, a_step([line], [2] * invalid))
    await settle(database, [line.id], seeds.success if succeeds else seeds.failure)
    await end(database, batch)
    over = await found(database, batch)
    views = {row.id: row for row in await seeds.rows_of(database, files)}
    ids = {"output": over.output_file_id, "error": over.error_file_id}
    assert {kind for kind, view_id in ids.items() if view_id is not None} == kinds
    assert {kind: views[ids[kind]].filename for kind in kinds} == {kind: f"{batch.id}_{kind}.jsonl" for kind in kinds}
    assert {(row.purpose, row.batch_id, row.project_id) for row in views.values()} == {
        ("batch_output", batch.id, key.project_id)
    }


async def test_an_end_is_told_to_the_callback_url_and_to_endpoints_that_want_to_know(
    database: Database, key: Key
) -> None:
    batch, ids = await taken_in(database, key, count=1, callback_url="https://example.org/told")
    for events in ((), (Event.BATCH_COMPLETED,), (Event.TASK_SUCCEEDED,)):
        await an_endpoint(database, key, *events)
    await settle(database, ids)
    assert await seeds.size(database, webhook_deliveries) == 0
    await end(database, batch)
    told = await seeds.rows_of(database, webhook_deliveries)
    assert {(row.event, row.batch_id, row.task_id) for row in told} == {("batch.completed", batch.id, None)}
    assert sorted(row.url or "endpoint" for row in told) == ["endpoint", "endpoint", "https://example.org/told"]


async def test_a_line_that_failed_is_tried_again_as_another_task(database: Database, key: Key) -> None:
    batch, ids = await taken_in(database, key)
    await settle(database, ids[:2])
    await settle(database, ids[2:], lambda task: seeds.failure(task, bill=seeds.BILL))
    assert await end(database, batch) is BatchState.COMPLETED
    await retry(database, batch)
    assert await end(database, batch) is None
    assert await renew(database, batch) == 1
    going = await found(database, batch)
    assert (going.state, going.retry_asked_at, going.output_file_id) == (BatchState.IN_PROGRESS, None, None)
    assert (going.sums.ended, going.sums.tasks_failed, going.sums.cost_nano) == (2, 0, 1_800_000)
    old, new = sorted(
        (row for row in await seeds.rows_of(database, tasks) if row.line == 3), key=lambda row: row.superseded
    )[::-1]
    assert (old.id, old.superseded, old.state) == (ids[2], True, TaskState.FAILED)
    assert (new.custom_id, new.state, new.superseded, new.fence) == (old.custom_id, TaskState.QUEUED, False, 0)
    assert (new.deadline, new.not_before) == (going.expires_at, seeds.later(9))
    assert going.expires_at == seeds.later(9 + batch.window_s)
    assert await tell(database, now=seeds.later(10)) == [new.id]
    await seeds.settle(
        database, *(seeds.success(task) for task in await seeds.claim(database, new.id, now=seeds.later(10)))
    )
    assert await end(database, batch) is BatchState.COMPLETED
    over = await found(database, batch)
    assert (over.sums.tasks_succeeded, over.sums.tasks_failed, over.sums.attempts) == (3, 0, 4)
    assert over.sums.cost_nano == 2_400_000
    assert [row.id for row in await seeds.rows_of(database, files)] == [over.output_file_id]
    assert await differing(database) == set()


async def test_lines_that_fail_while_others_run_are_tried_again_meanwhile(database: Database, key: Key) -> None:
    batch, ids = await taken_in(database, key)
    await tell(database)
    first, *others = await seeds.claim(database, *ids)
    await seeds.settle(database, seeds.failure(first))
    await retry(database, batch)
    # What fails after it was asked for is not meant.
    await seeds.settle(database, seeds.failure(others[0]), now=seeds.later(10))
    assert await renew(database, batch) == 1
    assert (await found(database, batch)).sums.tasks_failed == 1
    await seeds.settle(database, seeds.success(others[1]), now=seeds.later(11))
    assert await end(database, batch) is None
    assert await differing(database) == set()


async def test_each_kind_of_failure_leaves_the_counts(database: Database, key: Key) -> None:
    batch, ids = await taken_in(database, key)
    await settle(database, ids[:1], seeds.failure)
    await seeds.settle(database, expired(ids[1]))
    await cancel(database, batch)
    await end_queued(database, batch)
    assert await end(database, batch) is BatchState.CANCELLED
    seen = (await found(database, batch)).sums
    assert (seen.tasks_failed, seen.tasks_expired, seen.tasks_cancelled) == (3, 1, 1)
    await retry(database, batch)
    await renew(database, batch)
    seen = (await found(database, batch)).sums
    assert (seen.tasks_failed, seen.tasks_expired, seen.tasks_cancelled) == (0, 0, 0)
    assert await differing(database) == set()


async def test_many_failed_lines_are_tried_again_in_rounds(
    database: Database, key: Key, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch_course, "AT_ONCE", 2)
    batch, ids = await taken_in(database, key, count=5)
    await settle(database, ids, seeds.failure)
    await retry(database, batch)
    assert await renew(database, batch) == 3
    assert len([row for row in await seeds.rows_of(database, tasks) if not row.superseded]) == 5
    assert await differing(database) == set()


async def test_a_cancel_stops_a_retry(database: Database, key: Key) -> None:
    batch, ids = await taken_in(database, key)
    await settle(database, ids[:2], seeds.failure)
    await retry(database, batch)
    await cancel(database, batch)
    assert await renew(database, batch) == 0
    await end_queued(database, batch)
    assert await end(database, batch) is BatchState.CANCELLED
    assert (await found(database, batch)).sums.tasks_failed == 3


async def test_no_batch_ends_under_lines_that_are_just_tried_again(postgres: Database) -> None:
    key = await seeds.a_key(postgres)
    batch, ids = await taken_in(postgres, key)
    await settle(postgres, ids, seeds.failure)
    await retry(postgres, batch)
    async with postgres.write() as renewing:
        await batch_course.try_again(renewing, batch.id, before=seeds.later(9), now=seeds.later(9))
        cancelling = asyncio.create_task(cancel(postgres, batch))
        await seeds.until_waiting(postgres)
    assert await cancelling
    assert await end(postgres, batch) is None


async def test_two_beats_try_each_line_again_once(postgres: Database) -> None:
    key = await seeds.a_key(postgres)
    batch, ids = await taken_in(postgres, key)
    await settle(postgres, ids, seeds.failure)
    await retry(postgres, batch)
    async with postgres.write() as first:
        await batch_course.try_again(first, batch.id, before=seeds.later(9), now=seeds.later(9))
        second = asyncio.create_task(renew(postgres, batch))
        await seeds.until_waiting(postgres)
    assert await second == 0
    assert len(await seeds.rows_of(postgres, tasks)) == 6
    assert await differing(postgres) == set()


@dataclass(slots=True, kw_only=True)
class CourseWalk(Walk):
    """What everybody does with lines, and owners and the beat with their batches."""

    batches: list[Batch]

    async def step(self) -> None:
        self.now = seeds.later((self.now - seeds.NOW).total_seconds() + self.random.choice((1, 20, 40)))
        often = (self.tell, self.tell, self.claim, self.claim, self.settle, self.settle, self.rescue)
        await self.random.choice((*often, self.cancel, self.cancel_all, self.try_again, self.beat, self.beat))()

    async def tell(self) -> None:
        await tell(self.database, limit=9, now=self.now)

    async def claim(self) -> None:
        self.ids = [row.id for row in await seeds.rows_of(self.database, tasks)]
        await Walk.claim(self)  # slots: `super()` finds no class

    async def cancel_all(self) -> None:
        if self.random.random() < 0.2:
            await cancel(self.database, self.random.choice(self.batches))

    async def try_again(self) -> None:
        batch = await found(self.database, self.random.choice(self.batches))
        if batch.sums.tasks_failed and batch.state is not BatchState.CANCELLING:
            async with self.database.write() as connection:
                await batches.retry(connection, batch, now=self.now)

    async def beat(self) -> None:
        async with self.database.read() as connection:
            going = await batch_course.open_batches(connection)
        for batch in going:
            if batch.retry_asked_at is not None:
                async with self.database.write() as connection:
                    asked_at = batch.retry_asked_at
                    await batch_course.try_again(connection, batch.id, before=asked_at, now=self.now)
            if batch.state is BatchState.CANCELLING:
                async with self.database.read() as connection:
                    lines = await batch_course.queued(connection, batch.id)
                await seeds.settle(self.database, *map(cancelled, lines), now=self.now)
            async with self.database.write() as connection:
                await batch_course.end(connection, batch.id, now=self.now)


async def test_the_sums_of_batches_are_those_of_their_lines_and_attempts(database: Database) -> None:
    """Ids are random, so what one seed meets differs from run to run: all five together must have met everything."""
    key = await seeds.a_key(database)
    for seed in range(5):
        made_ = [await taken_in(database, key, count=6) for _ in range(2)]
        walk = CourseWalk(
            database=database, random=random.Random(seed), ids=[i for _, ids in made_ for i in ids],
            project_id=key.project_id, batches=[batch for batch, _ in made_],
        )  # fmt: skip
        for n in range(120):
            await walk.step()
            if n % 30 == 29:
                assert await differing(database) == set(), f"seed {seed}, step {n}"
    seen = await seeds.rows_of(database, tasks)
    assert any(row.superseded for row in seen)
    assert {row.state for row in seen} >= {"succeeded", "failed", "cancelled"}


@pytest.mark.parametrize("column", BATCH_COUNTS)
async def test_each_sum_of_a_batch_is_compared_to_the_last_unit(database: Database, key: Key, column: str) -> None:
    batch, ids = await taken_in(database, key)
    await settle(database, ids)
    await ledgers.corrupt(database, sa.update(batch_sums).values({column: batch_sums.c[column] + 1}))
    (difference,) = (await ledgers.differing(database))["batch-sums"].first
    assert difference.found[column] == (difference.expected[column] or 0) + 1  # type: ignore[operator]
    assert set(difference.found) == {column}
    assert difference.where == {"batch": str(batch.id), "project": "acme"}


async def test_lines_that_a_batch_does_not_count_are_named(database: Database, key: Key) -> None:
    batch, ids = await taken_in(database, key)
    row = {"batch_id": batch.id, "line": 9, "code": "x", "message": "y"}
    await ledgers.corrupt(database, sa.insert(invalid_lines).values(row))
    await ledgers.corrupt(database, sa.update(tasks).where(tasks.c.id == ids[0]).values(superseded=True))
    (difference,) = (await ledgers.differing(database))["batch-lines"].first
    assert (difference.found, difference.expected) == ({"accepted": 3, "invalid": 0}, {"accepted": 2, "invalid": 1})


async def test_a_batch_that_ended_under_its_lines_is_named(database: Database, key: Key) -> None:
    batch, ids = await taken_in(database, key)
    await settle(database, ids)
    await end(database, batch)
    await ledgers.corrupt(
        database, sa.update(tasks).where(tasks.c.id == ids[0]).values(state=TaskState.QUEUED, ended_at=None)
    )
    (difference,) = (await ledgers.differing(database))["lines-of-ended-batches"].first
    assert (difference.where, difference.found) == ({"batch": str(batch.id)}, {"state": "completed"})
