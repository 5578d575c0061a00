"""Successes settled in one statement: the same rows as by reading first, and none where anything is not as foreseen."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from datetime import date
from typing import Any
from uuid import UUID

import pytest
import sqlalchemy as sa

from tests.store import batch_seeds, seeds, spending
from tests.store.test_deliveries import an_endpoint
from tollgate.domain.settling import Resolution, Settlement
from tollgate.domain.states import AttemptOutcome, TaskState
from tollgate.domain.tasks import Key
from tollgate.store import cancels, successes
from tollgate.store.claims import Claimed
from tollgate.store.database import Database
from tollgate.store.direct import Direct, Written
from tollgate.store.reservations import text_of
from tollgate.store.schema import (
    attempts,
    batch_sums,
    task_results,
    tasks,
    usage_daily,
    usage_daily_totals,
    usage_hourly,
    workers,
)

WRITTEN = (tasks, attempts, task_results, usage_hourly, usage_daily, usage_daily_totals, batch_sums)
"""All that a settlement may write."""
OWN = frozenset({"id", "task_id", "project_id", "key_id", "feed", "batch_id", "worker_id", "request_id"})
"""What two tasks alike differ in."""


async def settle(
    database: Database, *given: Settlement, now: Any = seeds.NOW, shard: int = 0
) -> list[Resolution] | None:
    assert successes.are_plain(given)
    async with database.write_once() as connection:
        return await successes.settle(connection, given, now=now, shard=shard)


def success(task: Claimed, **changes: Any) -> Settlement:
    return seeds.success(task, known=task.known, **changes)


async def all_rows(database: Database) -> dict[str, list[Any]]:
    return {table.name: sorted(map(repr, await seeds.rows_of(database, table))) for table in WRITTEN}


async def rows_of(database: Database, key: Key) -> dict[str, list[Any]]:
    """What stands of the project of `key`, without what is its own alone."""
    theirs = {row.id for row in await seeds.rows_of(database, tasks) if row.project_id == key.project_id}
    batches = {row.batch_id for row in await seeds.rows_of(database, tasks) if row.id in theirs and row.batch_id}

    def is_theirs(row: Any) -> bool:
        of = row._mapping
        named = of.get("task_id", of.get("id"))
        return bool(of.get("project_id") == key.project_id or named in theirs or of.get("batch_id") in batches)

    return {
        table.name: [
            {name: value for name, value in row._mapping.items() if name not in OWN}
            for row in await seeds.rows_of(database, table)
            if is_theirs(row)
        ]
        for table in WRITTEN
    }


async def lines(database: Database, key: Key) -> list[UUID]:
    batch = await batch_seeds.made(database, key, total=2)
    new = [batch_seeds.a_line(key, batch, line) for line in (1, 2)]
    await batch_seeds.take_in(database, batch, batch_seeds.a_step(new))
    async with database.write() as connection:
        await connection.execute(sa.update(tasks).values(announced_at=seeds.NOW).where(tasks.c.batch_id == batch.id))
    return [line.id for line in new]


@pytest.mark.parametrize("of", ["tasks", "lines"])
async def test_it_writes_what_settling_by_reading_writes(postgres: Database, of: str) -> None:
    by_reading, foreseen = await seeds.a_key(postgres, project="a"), await seeds.a_key(postgres, project="b")
    for key, way in ((by_reading, seeds.settle), (foreseen, settle)):
        ids = await (lines(postgres, key) if of == "lines" else seeds.queued(postgres, key, count=2, label="night"))
        claimed = await seeds.claim(postgres, *ids)
        given = [success(claimed[0]), success(claimed[1], http_status=201, bill=replace(seeds.BILL, engine_us=7))]
        resolved = await way(postgres, *given, now=seeds.later(7_000), shard=3)
        assert resolved is not None
        assert [(r.task, r.attempt, r.settlement) for r in resolved] == [(True, True, one) for one in given]
    expected, found = await rows_of(postgres, by_reading), await rows_of(postgres, foreseen)
    assert [row["state"] for row in found["tasks"]] == [TaskState.SUCCEEDED] * 2
    assert len(found["batch_sums"]) == (of == "lines")
    assert found == expected


async def change_task(database: Database, task: Claimed, **values: Any) -> None:
    async with database.write() as connection:
        await connection.execute(sa.update(tasks).where(tasks.c.id == task.id).values(values))


async def close_attempt(database: Database, task: Claimed) -> None:
    async with database.write() as connection:
        await connection.execute(closing(task))


def closing(task: Claimed) -> sa.Update:
    closed = {"outcome": AttemptOutcome.UNCERTAIN, "ended_at": seeds.NOW}
    return sa.update(attempts).where(attempts.c.task_id == task.id).values(closed)


Meanwhile = Callable[[Database, Key, Claimed], Awaitable[Any]]
MEANWHILE: dict[str, Meanwhile] = {
    "the lease is another's": lambda d, _, t: change_task(d, t, fence=t.fence + 1),
    "it is queued again": lambda d, _, t: change_task(d, t, state=TaskState.QUEUED, worker_id=None),
    "it has ended": lambda d, _, t: change_task(d, t, state=TaskState.FAILED, worker_id=None, ended_at=seeds.NOW),
    "another attempt runs": lambda d, _, t: change_task(d, t, attempt=t.attempt + 1),
    "its attempt is closed": lambda d, _, t: close_attempt(d, t),
    "its end is to be told": lambda d, key, _: an_endpoint(d, key),
    "a budget holds it": lambda d, key, t: change_task(
        d, t, charged_to=text_of([(key.project_id, date(2026, 3, 1))]), reserved_nano=1, reserved_tokens=1
    ),
}


@pytest.mark.parametrize("meanwhile", MEANWHILE.values(), ids=MEANWHILE.keys())
async def test_where_one_is_not_as_foreseen_nothing_is_written(postgres: Database, meanwhile: Meanwhile) -> None:
    key = await seeds.a_key(postgres)
    claimed = await seeds.claim(postgres, *await seeds.queued(postgres, key, count=3))
    await meanwhile(postgres, key, claimed[1])
    before = await all_rows(postgres)
    assert await settle(postgres, *map(success, claimed)) is None
    assert await all_rows(postgres) == before


async def test_what_changed_while_it_waited_for_the_lock_counts(postgres: Database) -> None:
    """The statement began before the change was committed."""
    task = await seeds.running(postgres, await seeds.a_key(postgres))
    async with postgres.write() as connection:
        taken = sa.update(tasks).where(tasks.c.id == task.id).values(fence=task.fence + 1)
        await connection.execute(taken)
        settling = asyncio.create_task(settle(postgres, success(task)))
        await seeds.until_waiting(postgres)
    assert await settling is None
    assert not await seeds.size(postgres, task_results)
    assert not await seeds.size(postgres, usage_hourly)


async def test_an_attempt_that_was_closed_while_it_waited_counts(postgres: Database) -> None:
    task = await seeds.running(postgres, await seeds.a_key(postgres))
    async with postgres.write() as connection:
        await connection.execute(closing(task))
        settling = asyncio.create_task(settle(postgres, success(task)))
        await seeds.until_waiting(postgres)
    assert await settling is None
    assert (await seeds.row(postgres, task.id)).state == "running"


async def test_a_cancel_that_was_asked_comes_too_late(postgres: Database) -> None:
    """As it does when the rows are read first: the answer is there, and paid."""
    key = await seeds.a_key(postgres)
    task = await seeds.running(postgres, key)
    async with postgres.write() as connection:
        await cancels.cancel(connection, task.id, project_id=key.project_id, now=seeds.NOW)
    assert await settle(postgres, success(task)) is not None
    assert (await seeds.row(postgres, task.id)).state == "succeeded"


async def test_settled_twice_it_is_written_once(postgres: Database) -> None:
    """A commit whose answer was lost is tried again."""
    task = await seeds.running(postgres, await seeds.a_key(postgres))
    found = await asyncio.gather(*(settle(postgres, success(task)) for _ in range(4)))
    assert sum(one is not None for one in found) == 1
    (usage,) = await seeds.rows_of(postgres, usage_hourly)
    assert (usage.tasks_succeeded, usage.attempts, usage.cost_nano) == (1, 1, seeds.BILL.cost_nano)


async def test_many_settlers_at_once_book_every_task_once(postgres: Database) -> None:
    key = await seeds.a_key(postgres)
    claimed = await seeds.claim(postgres, *await seeds.queued(postgres, key, count=120))
    groups: list[Sequence[Claimed]] = [claimed[i::8][:: -1 if i % 2 else 1] for i in range(8)]
    settling = [settle(postgres, *map(success, group), shard=i % 2) for i, group in enumerate(groups)]
    found = await asyncio.gather(*settling)
    assert all(found)
    assert sum(row.tasks_succeeded for row in await seeds.rows_of(postgres, usage_hourly)) == 120


async def test_a_claim_knows_a_plain_task(postgres: Database) -> None:
    key = await seeds.a_key(postgres)
    task = await seeds.running(postgres, key, label="night")
    assert task.known is not None
    assert (task.known.project_id, task.known.key_id, task.known.label) == (key.project_id, key.id, "night")
    assert (task.known.model, task.known.upstream) == ("glm-4.7", "zhipu")
    assert task.known.attempt_started_at == task.attempt_started_at


async def test_a_claim_does_not_know_what_a_budget_holds_or_whose_end_is_told(postgres: Database) -> None:
    held, watched, called = [await seeds.a_key(postgres, project=name) for name in ("held", "watched", "called")]
    await spending.a_budget(postgres, held)
    await an_endpoint(postgres, watched)
    new = spending.a_task(held)
    await spending.submit(postgres, [new])
    ids = [
        new.id,
        *await seeds.queued(postgres, watched),
        *await seeds.queued(postgres, called, callback_url="https://hooks.example/cb"),
    ]
    claimed = await seeds.claim(postgres, *ids)
    assert [task.known for task in claimed] == [None] * 3


async def test_lines_of_a_project_with_webhooks_are_known(postgres: Database) -> None:
    """Of a batch its end is told, as a whole."""
    key = await seeds.a_key(postgres)
    await an_endpoint(postgres, key)
    claimed = await seeds.claim(postgres, *await lines(postgres, key))
    assert all(task.known for task in claimed)
    assert await settle(postgres, *map(success, claimed)) is not None


async def test_only_successes_that_are_known_and_named_once_are_plain(postgres: Database) -> None:
    task = await seeds.running(postgres, await seeds.a_key(postgres))
    plain = success(task)
    assert successes.are_plain([plain])
    assert not successes.are_plain([plain, plain])
    assert not successes.are_plain([plain, replace(plain, known=None)])
    assert not successes.are_plain([plain, replace(plain, result=None)])
    assert not successes.are_plain([plain, replace(plain, credential="second")])
    assert not successes.are_plain([plain, replace(plain, held=TaskState.QUEUED)])
    assert not successes.are_plain([replace(plain, state=TaskState.FAILED, outcome=AttemptOutcome.FAILED)])


async def test_a_worker_that_was_declared_dead_settles_what_nobody_took_over(postgres: Database) -> None:
    """The fence is what counts, as when the rows are read first."""
    task = await seeds.running(postgres, await seeds.a_key(postgres))
    async with postgres.write() as connection:
        await connection.execute(sa.update(workers).values(dead=True))
    assert await settle(postgres, success(task)) is not None


async def test_it_reads_its_own_rows_however_many_run(postgres: Database) -> None:
    """Statistics of an hour in which nothing ran: the index of what runs is taken for empty."""
    key = await seeds.a_key(postgres)
    await seeds.settle(postgres, seeds.success(await seeds.running(postgres, key)))
    many = sa.select(*(sa.func.gen_random_uuid() if c is tasks.c.id else c for c in tasks.c)).select_from(
        tasks.join(sa.func.generate_series(1, 50_000).alias("n"), sa.true())
    )
    async with postgres.write() as connection:
        await connection.execute(sa.insert(tasks).from_select(list(tasks.c.keys()), many))
    async with postgres.read() as vacuuming:
        await vacuuming.exec_driver_sql("VACUUM ANALYZE tasks")
    claimed = await seeds.claim(postgres, *await seeds.queued(postgres, key, count=2_000))

    async def read_by_index() -> int:
        """Rows of the index of what runs that were read so far."""
        async with postgres.read() as reading:
            await reading.exec_driver_sql("SELECT pg_stat_clear_snapshot()")
            counted = "SELECT idx_tup_read FROM pg_stat_user_indexes WHERE indexrelname = 'ix_tasks_worker_id'"
            return int((await reading.exec_driver_sql(counted)).scalar_one())

    flush = Written("SELECT pg_stat_force_next_flush()", names=(), constants={})

    before = await read_by_index()
    for task in claimed[:20]:
        async with postgres.write_once() as settling:
            assert isinstance(settling, Direct)
            assert await successes.settle(settling, [success(task)], now=seeds.NOW, shard=0)
            await settling.fetch(flush, {})
    assert await read_by_index() - before < 1_000
