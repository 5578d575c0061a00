"""Stores for the reconciliation: tasks of every kind under budgets, and ways to damage them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from tests.store import seeds
from tollgate.domain.budgets import Budget, Period
from tollgate.domain.ids import new_id
from tollgate.domain.prices import PriceTable
from tollgate.domain.settling import Bill
from tollgate.domain.tasks import Key, NewTask
from tollgate.store import budgets, cancels, intake
from tollgate.store.database import Database
from tollgate.store.reconcile import CHECKS, checks, snapshots
from tollgate.store.reconcile.checks import Difference, Finding
from tollgate.store.schema import attempts

PRICES = PriceTable([seeds.PRICE])
UNLIMITED = 10**15
NO_CHECKS = """
DO $$ DECLARE one record; BEGIN
  FOR one IN SELECT conrelid::regclass AS place, conname FROM pg_constraint
    WHERE contype = 'c' AND connamespace = 'public'::regnamespace
  LOOP EXECUTE format('ALTER TABLE %s DROP CONSTRAINT %I', one.place, one.conname); END LOOP;
END $$"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Books:
    """A store with one task of each kind, all of one key with two budgets; see `fill`."""

    key: Key
    succeeded: UUID
    failed: UUID
    cancelled: UUID
    """Before it ran."""
    doubted: UUID
    """Attempt 1 is uncertain, attempt 2 succeeded."""
    refused: UUID
    """Queued again, with an open attempt."""
    running: UUID
    budget_id: UUID
    """Of the key, by day."""


async def reconcile(database: Database, *, limit: int = 20) -> list[Finding]:
    """What every check finds at one moment."""
    async with database.hold() as connection, snapshots.snapshot(connection):
        return [await checks.find(connection, check, limit=limit) for check in CHECKS]


async def differing(database: Database) -> dict[str, Finding]:
    """By name, the checks that found something."""
    return {found.check.name: found for found in await reconcile(database) if found.differences}


async def submit(database: Database, key: Key, *, count: int, **changes: Any) -> list[UUID]:
    """New tasks that reserve in their budgets."""
    new: list[NewTask] = [seeds.a_task(key, **changes) for _ in range(count)]
    async with database.write() as connection:
        await intake.submit(connection, [tuple(new)], prices=PRICES)
    return [task.id for task in new]


async def a_budget(database: Database, key: Key, *, period: Period, of_key: bool) -> UUID:
    budget = Budget(
        id=new_id(),
        project_id=key.project_id,
        key_id=key.id if of_key else None,
        period=period,
        limit_nano=UNLIMITED,
        limit_tokens=UNLIMITED,
    )
    async with database.write() as connection:
        await budgets.put(connection, budget, now=seeds.NOW)
    return budget.id


async def fill(database: Database) -> Books:
    """Six tasks, and all that became of them."""
    key = await seeds.a_key(database)
    await a_budget(database, key, period=Period.MONTH, of_key=False)
    budget_id = await a_budget(database, key, period=Period.DAY, of_key=True)
    ids = await submit(database, key, count=6, label="a", deadline=seeds.later(9_000))
    async with database.write() as connection:
        await cancels.cancel(connection, ids[2], project_id=key.project_id, now=seeds.later(60))
    worker_id = await seeds.a_worker(database, new_id())
    leased = {one.id: one for one in await seeds.claim(database, *ids, worker_id=worker_id)}
    lost = Bill(possible_cost_nano=700_000, possible_tokens=90)
    await seeds.settle(
        database,
        seeds.success(leased[ids[0]]),
        seeds.failure(leased[ids[1]]),
        seeds.doubt(leased[ids[3]], bill=lost),
        seeds.refusal(leased[ids[4]]),
        now=seeds.later(3600),
        shard=3,
    )
    again = await seeds.claim(database, ids[3], worker_id=worker_id, now=seeds.later(3600))
    await seeds.settle(database, seeds.success(again[0]), now=seeds.later(3700), shard=4)
    names = ("succeeded", "failed", "cancelled", "doubted", "refused", "running")
    return Books(key=key, budget_id=budget_id, **dict(zip(names, ids, strict=True)))


async def corrupt(database: Database, *statements: sa.Executable) -> None:
    """Change rows as nothing in Tollgate does, the schema's own CHECKs put aside."""
    async with database.write() as connection:
        await connection.exec_driver_sql(
            "PRAGMA ignore_check_constraints = ON" if database.dialect == "sqlite" else NO_CHECKS
        )
        for statement in statements:
            await connection.execute(statement)


def attempt(task_id: UUID, **values: Any) -> sa.Executable:
    """A change of the task's first attempt."""
    return sa.update(attempts).where(attempts.c.task_id == task_id, attempts.c.number == 1).values(**values)


async def the_difference(database: Database, name: str) -> Difference:
    """The one that there is, of this check."""
    (finding,) = (await differing(database)).values()
    (difference,) = finding.first
    assert (finding.check.name, finding.differences) == (name, 1)
    return difference
