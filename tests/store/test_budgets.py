"""Budgets as people set, read, change and remove them."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any

import pytest

from tests.store import seeds, spending
from tests.store.spending import NANO, RESERVED, SPENT
from tollgate.domain.budgets import NOTHING, Budget, Period
from tollgate.domain.errors import BudgetExceededError, NotFoundError
from tollgate.domain.ids import new_id
from tollgate.store import budgets
from tollgate.store.budgets import Balance
from tollgate.store.database import Database
from tollgate.store.schema import budget_periods
from tollgate.store.schema import budgets as budgets_table


async def balances(database: Database, *, now: datetime = seeds.NOW, **which: Any) -> list[Balance]:
    async with database.read() as connection:
        return list(await budgets.balances(connection, now=now, **which))


async def test_a_budget_is_read_as_it_was_set(database: Database) -> None:
    key = await seeds.a_key(database)
    budget_id = await spending.a_budget(database, key, limit_tokens=500, period=Period.MONTH)
    (one,) = await balances(database)
    assert one.budget == Budget(
        id=budget_id,
        project_id=key.project_id,
        key_id=None,
        period=Period.MONTH,
        limit_nano=5 * NANO,
        limit_tokens=500,
    )
    assert (one.project, one.created_at, one.stands) == ("acme", seeds.NOW, NOTHING)


async def test_setting_it_again_changes_its_limits_and_nothing_else(database: Database) -> None:
    key = await seeds.a_key(database)
    first = await spending.a_budget(database, key)
    await spending.submit(database, [spending.a_task(key)])
    again = await spending.a_budget(database, key, now=seeds.later(60), limit_nano=None, limit_tokens=7)
    assert again == first
    (one,) = await balances(database)
    assert (one.budget.limit_nano, one.budget.limit_tokens) == (None, 7)
    assert (one.created_at, one.stands) == (seeds.NOW, RESERVED)


async def test_a_project_and_each_of_its_keys_has_one_for_each_period(database: Database) -> None:
    key, other = await seeds.a_key(database), await seeds.a_key(database)
    made = {
        await spending.a_budget(database, key, key_id=key_id, period=period)
        for period in spending.OF_MONEY
        for key_id in (None, key.id, other.id)
    }
    assert len(made) == 9
    assert {one.budget.id for one in await balances(database)} == made


async def test_set_by_many_at_once_there_is_one(postgres: Database) -> None:
    key = await seeds.a_key(postgres)
    ids = await asyncio.gather(*(spending.a_budget(postgres, key, limit_nano=n) for n in range(8)))
    assert len(set(ids)) == 1
    assert await seeds.size(postgres, budgets_table) == 1


@pytest.mark.parametrize("unknown", [True, False])
async def test_a_key_of_another_project_gets_no_budget_here(database: Database, unknown: bool) -> None:
    key, other = await seeds.a_key(database), await seeds.a_key(database, project="other")
    with pytest.raises(NotFoundError, match="no key"):
        await spending.a_budget(database, key, key_id="nobody" if unknown else other.id)
    assert await balances(database) == []


async def test_only_the_projects_own_are_listed_in_the_order_of_their_making(database: Database) -> None:
    key, other = await seeds.a_key(database), await seeds.a_key(database, project="other")
    second = await spending.a_budget(database, key, now=seeds.later(1), period=Period.DAY)
    await spending.a_budget(database, other)
    first = await spending.a_budget(database, key)
    assert [one.budget.id for one in await balances(database, project_id=key.project_id)] == [first, second]


async def test_each_shows_the_period_that_holds_the_day(database: Database) -> None:
    key = await seeds.a_key(database)
    for period in spending.OF_MONEY:
        await spending.a_budget(database, key, period=period)
    await spending.submit(database, [spending.a_task(key)])

    async def stand(now: datetime) -> list[bool]:
        found = {one.budget.period: one.stands == RESERVED for one in await balances(database, now=now)}
        return [found[period] for period in (Period.DAY, Period.MONTH, Period.TOTAL)]

    assert await stand(seeds.NOW) == [True, True, True]
    assert await stand(datetime(2026, 3, 2, tzinfo=UTC)) == [False, True, True]
    assert await stand(datetime(2026, 4, 1, tzinfo=UTC)) == [False, False, True]
    assert await stand(datetime(2026, 2, 28, 23, 59, tzinfo=UTC)) == [False, False, True]


async def test_one_is_read_by_its_id(database: Database) -> None:
    key = await seeds.a_key(database)
    budget_id = await spending.a_budget(database, key)
    await spending.a_budget(database, key, period=Period.DAY)
    async with database.read() as connection:
        assert (await budgets.balance(connection, budget_id, now=seeds.NOW)).budget.id == budget_id
        with pytest.raises(NotFoundError, match="no budget"):
            await budgets.balance(connection, new_id(), now=seeds.NOW)


async def test_a_new_budget_counts_what_is_submitted_from_then_on(database: Database) -> None:
    key = await seeds.a_key(database)
    before, after = spending.a_task(key), spending.a_task(key)
    await spending.submit(database, [before])
    budget_id = await spending.a_budget(database, key)
    await spending.submit(database, [after])
    claimed = await seeds.claim(database, before.id, after.id)
    await seeds.settle(database, *(seeds.success(task) for task in claimed))
    assert await spending.in_total(database, budget_id) == SPENT


async def test_a_budget_removed_while_its_tasks_are_open_is_gone_with_all_that_stood_in_it(database: Database) -> None:
    key = await seeds.a_key(database)
    budget_id = await spending.a_budget(database, key)
    other_id = await spending.a_budget(database, key, period=Period.DAY)
    new = [spending.a_task(key) for _ in range(3)]
    await spending.submit(database, new)
    succeeds, doubtful, _ = await seeds.claim(database, *(task.id for task in new))
    async with database.write() as connection:
        await budgets.remove(connection, budget_id)
    await seeds.settle(database, seeds.success(succeeds), seeds.doubt(doubtful, bill=spending.POSSIBLE))
    assert await spending.stands(database, budget_id) == {}
    assert await spending.in_total(database, other_id) == SPENT + RESERVED + RESERVED + spending.IN_DOUBT
    assert (await seeds.row(database, succeeds.id)).state == "succeeded"


async def test_one_made_anew_does_not_inherit_the_open_tasks(database: Database) -> None:
    key = await seeds.a_key(database)
    task = spending.a_task(key)
    budget_id = await spending.a_budget(database, key)
    await spending.submit(database, [task])
    async with database.write() as connection:
        await budgets.remove(connection, budget_id)
    anew = await spending.a_budget(database, key)
    (claimed,) = await seeds.claim(database, task.id)
    await seeds.settle(database, seeds.success(claimed))
    assert anew != budget_id
    assert await spending.in_total(database, anew) == NOTHING


async def test_what_is_not_there_cannot_be_removed(database: Database) -> None:
    async with database.write() as connection:
        with pytest.raises(NotFoundError, match="no budget"):
            await budgets.remove(connection, new_id())
    assert await seeds.size(database, budget_periods) == 0


async def test_a_raised_limit_makes_room_and_a_lowered_one_only_keeps_new_tasks_out(database: Database) -> None:
    key = await seeds.a_key(database)
    await spending.a_budget(database, key, limit_nano=NANO)
    held = spending.a_task(key)
    await spending.submit(database, [held])

    async def is_refused() -> bool:
        return isinstance((await spending.submit(database, [spending.a_task(key)]))[0], BudgetExceededError)

    assert await is_refused()
    await spending.a_budget(database, key, limit_nano=2 * NANO)
    assert not await is_refused()
    budget_id = await spending.a_budget(database, key, limit_nano=NANO // 2)
    assert await is_refused()
    (claimed,) = await seeds.claim(database, held.id)
    await seeds.settle(database, seeds.success(claimed))
    assert (await seeds.row(database, held.id)).state == "succeeded"
    assert await spending.in_total(database, budget_id) == RESERVED + SPENT
