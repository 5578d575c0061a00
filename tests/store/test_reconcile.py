"""The books of a store that was only ever used agree; a task that no transition left so is named."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import Any
from uuid import UUID

import pytest
import sqlalchemy as sa

from tests.store import ledgers, seeds
from tests.store.ledgers import Books, attempt
from tests.store.test_accounts import Walk
from tollgate.domain.budgets import Period
from tollgate.domain.ids import new_id
from tollgate.store.database import Database
from tollgate.store.reconcile import CHECKS, checks, snapshots
from tollgate.store.schema import attempts, budget_periods, task_results, tasks

STEPS = 60


@pytest.fixture
async def books(database: Database) -> Books:
    return await ledgers.fill(database)


@pytest.mark.parametrize("seed", range(4))
async def test_whatever_happened_the_books_agree(database: Database, seed: int) -> None:
    chance = random.Random(seed)
    key = await seeds.a_key(database)
    await ledgers.a_budget(database, key, period=Period.DAY, of_key=False)
    ids = await ledgers.submit(database, key, count=6, deadline=seeds.later(10**7))
    await ledgers.a_budget(database, key, period=Period.TOTAL, of_key=True)
    ids += await ledgers.submit(database, key, count=6, label="b", deadline=seeds.later(10**7))
    walk = Walk(database=database, random=chance, ids=ids, project_id=key.project_id)
    for _ in range(STEPS):
        await walk.step()
    for worker_id in {row.worker_id for row in await seeds.rows_of(database, tasks) if row.worker_id}:
        await seeds.a_worker(database, worker_id)
    assert await ledgers.differing(database) == {}
    assert any(row.spent_nano for row in await seeds.rows_of(database, budget_periods))


async def test_each_check_says_how_many_rows_it_looked_at(database: Database, books: Books) -> None:
    checked = {found.check.name: found.checked for found in await ledgers.reconcile(database)}
    assert await ledgers.differing(database) == {}
    assert checked["results-of-ended-tasks"] == 4
    assert checked["results-of-open-tasks"] == 2
    assert checked["attempts-of-running-tasks"] == 1
    assert checked["ends-of-attempts"] == 6
    assert checked["budgets"] == 2


def task(task_id: UUID, **values: Any) -> sa.Executable:
    return sa.update(tasks).where(tasks.c.id == task_id).values(**values)


def extra_attempt(task_id: UUID, **values: Any) -> sa.Executable:
    plain = {
        "task_id": task_id, "number": 9, "fence": 1, "worker_id": UUID(int=7), "upstream": "zhipu",
        "upstream_model": "glm-4.7", "request_id": "r", "outcome": "open", "tries": 1, "started_at": seeds.NOW,
    }  # fmt: skip
    return sa.insert(attempts).values({**plain, **values})


def result(task_id: UUID, **values: Any) -> sa.Executable:
    return sa.update(task_results).where(task_results.c.task_id == task_id).values(**values)


LIFE: dict[str, tuple[str, str, Callable[[UUID], sa.Executable], dict[str, Any]]] = {
    "no result": (
        "results-of-ended-tasks",
        "cancelled",
        lambda one: sa.delete(task_results).where(task_results.c.task_id == one),
        {"state": "cancelled"},
    ),
    "a result too early": (
        "results-of-open-tasks",
        "refused",
        lambda one: sa.insert(task_results).values(task_id=one, attempt=1, body="{}"),
        {"state": "queued"},
    ),
    "held by nobody there is": (
        "workers-of-running-tasks",
        "running",
        lambda one: task(one, worker_id=UUID(int=7)),
        {"state": "running", "worker": str(UUID(int=7))},
    ),
    "held after its end": (
        "workers-of-running-tasks",
        "failed",
        lambda one: task(one, worker_id=UUID(int=7)),
        {"state": "failed", "worker": str(UUID(int=7))},
    ),
    "running on a closed attempt": (
        "attempts-of-running-tasks",
        "running",
        lambda one: attempt(one, outcome="abandoned", ended_at=seeds.NOW),
        {"state": "running", "outcome": "abandoned"},
    ),
    "running without an attempt": (
        "attempts-of-running-tasks",
        "running",
        lambda one: task(one, attempt=2),
        {"state": "running", "outcome": None},
    ),
    "an attempt left open": ("attempts-of-ended-tasks", "cancelled", extra_attempt, {"state": "cancelled"}),
    "an answer of the wrong attempt": (
        "attempts-of-succeeded-tasks",
        "doubted",
        lambda one: result(one, attempt=1),
        {"outcome": "uncertain"},
    ),
    "an open attempt with a cost": (
        "costs-of-open-attempts",
        "refused",
        lambda one: attempt(one, cost_nano=0),
        {"outcome": "open", "cost_nano": 0},
    ),
    "an abandoned attempt with a cost": (
        "costs-of-open-attempts",
        "failed",
        lambda one: extra_attempt(one, outcome="abandoned", ended_at=seeds.NOW, cost_nano=5),
        {"outcome": "abandoned", "cost_nano": 5},
    ),
    "closed without an end": (
        "ends-of-attempts",
        "failed",
        lambda one: attempt(one, ended_at=None),
        {"outcome": "failed", "ended_at": None},
    ),
    "open with an end": (
        "ends-of-attempts",
        "running",
        lambda one: attempt(one, ended_at=seeds.NOW),
        {"outcome": "open", "ended_at": "2026-03-01T12:30:00Z"},
    ),
    "ended with a reservation": (
        "reservations-of-ended-tasks",
        "failed",
        lambda one: task(one, reserved_tokens=5),
        {"state": "failed", "reserved_nano": None, "reserved_tokens": 5},
    ),
}


@pytest.mark.parametrize("damage", LIFE)
async def test_a_task_that_no_transition_left_so_is_named(database: Database, books: Books, damage: str) -> None:
    name, whose, change, found = LIFE[damage]
    task_id = getattr(books, whose)
    await ledgers.corrupt(database, change(task_id))
    (finding,) = (await ledgers.differing(database)).values()
    (difference,) = finding.first
    assert (finding.check.name, finding.differences) == (name, 1)
    assert (difference.where["task"], difference.found) == (str(task_id), found)


async def test_only_the_first_differences_are_told_and_all_are_counted(database: Database, books: Books) -> None:
    await ledgers.corrupt(database, sa.update(tasks).where(tasks.c.ended_at.is_not(None)).values(reserved_nano=1))
    (finding,) = [one for one in await ledgers.reconcile(database, limit=2) if one.differences]
    assert (finding.differences, len(finding.first)) == (4, 2)


async def test_all_checks_see_the_same_moment(database: Database, books: Books) -> None:
    every = next(check for check in CHECKS if check.name == "ends-of-attempts")
    async with database.hold() as connection, snapshots.snapshot(connection):
        before = await checks.find(connection, every, limit=1)
        await seeds.claim(database, *await ledgers.submit(database, books.key, count=1))
        after = await checks.find(connection, every, limit=1)
    assert (before.checked, after.checked) == (6, 6)
    assert await seeds.size(database, attempts) == 7


async def test_running_traffic_is_no_difference(database: Database) -> None:
    key = await seeds.a_key(database)
    await ledgers.a_budget(database, key, period=Period.DAY, of_key=False)
    worker_id = await seeds.a_worker(database, new_id())
    stopped = asyncio.Event()
    settled = 0

    async def work(shard: int) -> None:
        nonlocal settled
        while not stopped.is_set():
            ids = await ledgers.submit(database, key, count=5)
            leased = await seeds.claim(database, *ids, worker_id=worker_id)
            ends = (seeds.success, seeds.failure, seeds.doubt, seeds.refusal)
            await seeds.settle(database, *(end(one) for end, one in zip(ends, leased, strict=False)), shard=shard)
            settled += 4

    async with asyncio.timeout(60), asyncio.TaskGroup() as group:
        workers = [group.create_task(work(shard)) for shard in range(3)]
        rounds = 0
        while rounds < 5 or settled < 60:
            assert await ledgers.differing(database) == {}
            rounds += 1
            assert not any(worker.done() for worker in workers)
        stopped.set()
