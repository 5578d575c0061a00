"""Budgets under many transactions at once: PostgreSQL."""

from __future__ import annotations

import asyncio

import pytest

from tests.store import seeds, spending
from tests.store.spending import NANO, SPENT
from tests.store.test_reservations import is_accepted
from tollgate.domain.budgets import NOTHING, Period
from tollgate.store import budgets, periods
from tollgate.store.database import Database
from tollgate.store.foresight import Foresight
from tollgate.store.schema import budget_periods, tasks


async def test_transactions_at_once_cannot_overshoot(postgres: Database) -> None:
    key = await seeds.a_key(postgres)
    budget_id = await spending.a_budget(postgres, key, period=Period.DAY)
    outcomes = await asyncio.gather(*(spending.submit(postgres, [spending.a_task(key)]) for _ in range(16)))
    accepted = [outcome for (outcome,) in outcomes if is_accepted(outcome)]
    assert len(accepted) == 5
    assert (await spending.in_total(postgres, budget_id)).nano == 5 * NANO
    assert await seeds.size(postgres, tasks) == 5


@pytest.mark.parametrize("foreseen", [True, False])
async def test_submissions_and_settlements_over_many_budgets_never_wait_in_a_ring(
    postgres: Database, foreseen: bool
) -> None:
    foresight = Foresight()
    keys = [await seeds.a_key(postgres, project=f"p{n}") for n in range(4)]
    for key in keys:
        await spending.a_budget(postgres, key, limit_nano=10**12, period=Period.DAY)
        await spending.a_budget(postgres, key, limit_nano=10**12, key_id=key.id)

    async def come_and_go(order: list[int]) -> None:
        new = [spending.a_task(keys[n]) for n in order]
        outcomes = await spending.take_in(postgres, foresight if foreseen else Foresight(), *([task] for task in new))
        assert all(map(is_accepted, outcomes))
        claimed = await seeds.claim(postgres, *(task.id for task in new))
        await seeds.settle(postgres, *(seeds.success(task) for task in claimed))

    orders = [[0, 1, 2, 3], [3, 2, 1, 0], [2, 0, 3, 1], [1, 3, 0, 2]] * 6
    async with asyncio.timeout(60):
        await asyncio.gather(*map(come_and_go, orders))
    assert await spending.kept(postgres) == dict.fromkeys(
        await spending.kept(postgres), sum([SPENT] * len(orders), start=NOTHING)
    )


async def test_a_settlement_takes_all_its_periods_before_it_waits(postgres: Database) -> None:
    """The second answer for a task, in a later round, must not lock a period out of order."""
    one, other = await seeds.a_key(postgres), await seeds.a_key(postgres)
    first = await spending.a_budget(postgres, one, key_id=one.id)
    second = await spending.a_budget(postgres, other, key_id=other.id)
    new = [spending.a_task(one), spending.a_task(other)]
    await spending.submit(postgres, new)
    here, there = await seeds.claim(postgres, *(task.id for task in new))
    given = [seeds.success(here, fence=here.fence + 1), seeds.success(there), seeds.success(here)]
    (lower, upper) = sorted(await spending.kept(postgres))
    assert {lower[0], upper[0]} == {first, second}
    async with postgres.write() as connection:
        await periods.lock(connection, [lower])
        settling = asyncio.create_task(seeds.settle(postgres, *given))
        await seeds.until_waiting(postgres)
        await periods.lock(connection, [upper])
    assert [r.task for r in await settling] == [False, True, True]


@pytest.mark.parametrize("begun", [False, True])
async def test_a_budget_removed_while_a_submission_waits_refuses_nobody(postgres: Database, begun: bool) -> None:
    key = await seeds.a_key(postgres)
    budget_id = await spending.a_budget(postgres, key, limit_nano=NANO)
    if begun:
        await spending.submit(postgres, [spending.a_task(key)])
    async with postgres.write() as connection:
        await budgets.remove(connection, budget_id)
        submitting = asyncio.create_task(spending.submit(postgres, [spending.a_task(key)]))
        await seeds.until_waiting(postgres)
    assert is_accepted((await submitting)[0])
    assert await seeds.size(postgres, budget_periods) == 0


async def test_a_removal_waits_for_a_submission_that_begins_a_period(postgres: Database) -> None:
    key = await seeds.a_key(postgres)
    budget_id = await spending.a_budget(postgres, key)
    task = spending.a_task(key)

    async def remove() -> None:
        async with postgres.write() as connection:
            await budgets.remove(connection, budget_id)

    async with postgres.write() as connection:
        await spending.submit_in(connection, [task])
        removing = asyncio.create_task(remove())
        await seeds.until_waiting(postgres)
    await removing
    assert await seeds.size(postgres, budget_periods) == 0
    (claimed,) = await seeds.claim(postgres, task.id)
    await seeds.settle(postgres, seeds.success(claimed))
    assert (await seeds.row(postgres, task.id)).state == "succeeded"
