"""The roll-ups and the budgets, each amount against the rows it sums up."""

from __future__ import annotations

from dataclasses import fields
from datetime import date

import pytest
import sqlalchemy as sa

from tests.store import ledgers, seeds
from tests.store.ledgers import Books, attempt
from tollgate.domain.budgets import Amounts, Period
from tollgate.domain.ids import new_id
from tollgate.store import budgets
from tollgate.store.database import Database
from tollgate.store.reconcile import CHECKS, checks, snapshots
from tollgate.store.schema import USAGE_COUNTS, budget_periods, usage_daily, usage_daily_totals, usage_hourly

HOUR = seeds.NOW.replace(minute=0)


@pytest.fixture
async def books(database: Database) -> Books:
    return await ledgers.fill(database)


BY_DAY = {"roll-up-by-day": usage_daily, "totals-by-day": usage_daily_totals}
"""The check and its table."""


@pytest.mark.parametrize("column", USAGE_COUNTS)
async def test_each_column_of_the_roll_up_is_compared_to_the_last_unit(
    database: Database, books: Books, column: str
) -> None:
    at = sa.and_(usage_hourly.c.hour == HOUR, usage_hourly.c.attempts == 3)
    await ledgers.corrupt(database, sa.update(usage_hourly).where(at).values({column: usage_hourly.c[column] + 1}))
    (difference,) = (await ledgers.differing(database))["roll-up"].first
    assert difference.found[column] == (difference.expected[column] or 0) + 1  # type: ignore[operator]
    assert set(difference.found) == set(difference.expected) == {column}
    assert difference.where == {
        "hour": "2026-03-01T12:00:00Z",
        "project": "acme",
        "key": books.key.id,
        "model": "glm-4.7",
        "upstream": "zhipu",
        "label": "a",
    }


async def test_an_hour_that_was_not_booked_is_named(database: Database, books: Books) -> None:
    await ledgers.corrupt(
        database, sa.delete(usage_hourly).where(usage_hourly.c.hour == HOUR, usage_hourly.c.upstream == "")
    )
    (difference,) = (await ledgers.differing(database))["roll-up"].first
    assert (difference.where["upstream"], difference.found, difference.expected) == (
        "",
        {"tasks_failed": 0},
        {"tasks_failed": 1},
    )


async def test_a_booking_that_nothing_backs_is_named(database: Database, books: Books) -> None:
    key = {"project_id": books.key.project_id, "key_id": books.key.id, "model": "m", "upstream": "u", "label": ""}
    await ledgers.corrupt(database, sa.insert(usage_hourly).values(hour=HOUR, shard=2, cost_nano=9, **key))
    (difference,) = (await ledgers.differing(database))["roll-up"].first
    assert (difference.found, difference.expected) == ({"cost_nano": 9}, {"cost_nano": 0})


@pytest.mark.parametrize("check", BY_DAY)
@pytest.mark.parametrize("column", USAGE_COUNTS)
async def test_each_column_of_a_day_is_compared_to_the_last_unit(
    database: Database, books: Books, check: str, column: str
) -> None:
    table = BY_DAY[check]
    at = sa.and_(table.c.shard == 3, table.c.upstream == "zhipu")
    await ledgers.corrupt(database, sa.update(table).where(at).values({column: table.c[column] + 1}))
    difference = await ledgers.the_difference(database, check)
    assert difference.found[column] == (difference.expected[column] or 0) + 1  # type: ignore[operator]
    assert set(difference.found) == set(difference.expected) == {column}
    of_one_key = {"key": books.key.id, "label": "a"} if table is usage_daily else {}
    where = {"day": "2026-03-01", "project": "acme", "model": "glm-4.7", "upstream": "zhipu"}
    assert difference.where == where | of_one_key


@pytest.mark.parametrize("check", BY_DAY)
async def test_a_day_that_is_gone_is_missed(database: Database, books: Books, check: str) -> None:
    table = BY_DAY[check]
    await ledgers.corrupt(database, sa.delete(table).where(table.c.upstream == ""))
    difference = await ledgers.the_difference(database, check)
    assert (difference.found, difference.expected) == ({"tasks_failed": 0}, {"tasks_failed": 1})


async def test_an_hour_that_is_changed_is_no_more_its_days(database: Database, books: Books) -> None:
    await ledgers.corrupt(database, sa.update(usage_hourly).where(usage_hourly.c.attempts == 3).values(cost_nano=1))
    found = await ledgers.differing(database)
    assert {name: finding.differences for name, finding in found.items()} == {"roll-up": 1, **dict.fromkeys(BY_DAY, 1)}


async def test_a_booking_in_the_wrong_hour_is_two_differences(database: Database, books: Books) -> None:
    await ledgers.corrupt(database, attempt(books.failed, started_at=seeds.later(1800)))
    (finding,) = (await ledgers.differing(database)).values()
    assert [one.where["hour"] for one in finding.first] == ["2026-03-01T12:00:00Z", "2026-03-01T13:00:00Z"]
    assert [one.found["attempts"] for one in finding.first] == [3, 1]
    assert [one.expected["attempts"] for one in finding.first] == [2, 2]


async def test_a_changed_cost_is_named_in_the_roll_up_and_in_each_budget(database: Database, books: Books) -> None:
    await ledgers.corrupt(database, attempt(books.succeeded, cost_nano=600_001))
    found = await ledgers.differing(database)
    assert {name: finding.differences for name, finding in found.items()} == {"roll-up": 1, "budgets": 2}
    assert [dict(one.expected) for one in found["budgets"].first] == [{"spent_nano": 1_200_001}] * 2


async def test_what_an_open_attempt_may_cost_is_not_expected_to_be_booked(database: Database, books: Books) -> None:
    await ledgers.corrupt(database, attempt(books.running, possible_cost_nano=5, possible_tokens=5))
    assert await ledgers.differing(database) == {}


async def test_hours_are_those_of_utc_whatever_the_session_says(postgres: Database) -> None:
    key = await seeds.a_key(postgres)
    worker_id = await seeds.a_worker(postgres, new_id())
    leased = await seeds.claim(postgres, *await seeds.queued(postgres, key, count=2), worker_id=worker_id)
    await seeds.settle(postgres, *(seeds.success(one) for one in leased))
    async with postgres.hold() as connection, snapshots.snapshot(connection):
        await connection.exec_driver_sql("SET LOCAL TIME ZONE 'Asia/Kolkata'")
        found = [await checks.find(connection, check, limit=1) for check in CHECKS]
    assert [one.differences for one in found] == [0] * len(CHECKS)


@pytest.mark.parametrize("column", [field.name for field in fields(Amounts)])
async def test_each_amount_of_a_budget_is_compared(database: Database, books: Books, column: str) -> None:
    of_the_key = budget_periods.c.budget_id == books.budget_id
    more = {column: budget_periods.c[column] + 1}
    await ledgers.corrupt(database, sa.update(budget_periods).where(of_the_key).values(more))
    difference = await ledgers.the_difference(database, "budgets")
    assert difference.found[column] == difference.expected[column] + 1  # type: ignore[operator]
    assert set(difference.found) == {column}
    where = {"budget": str(books.budget_id), "starts_on": "2026-03-01", "project": "acme", "key": books.key.id}
    assert difference.where == where


async def test_a_period_that_is_gone_is_missed(database: Database, books: Books) -> None:
    await ledgers.corrupt(database, sa.delete(budget_periods).where(budget_periods.c.budget_id == books.budget_id))
    difference = await ledgers.the_difference(database, "budgets")
    assert set(difference.found.values()) == {0}
    assert (difference.expected["spent_nano"], difference.expected["uncertain_tokens"]) == (1_200_000, 90)


async def test_nothing_is_reserved_where_no_task_is_open(database: Database, books: Books) -> None:
    other = {"budget_id": books.budget_id, "starts_on": date(2026, 2, 28), "reserved_nano": 3}
    await ledgers.corrupt(database, sa.insert(budget_periods).values(other))
    difference = await ledgers.the_difference(database, "budgets")
    assert (difference.where["starts_on"], difference.found) == ("2026-02-28", {"reserved_nano": 3})


async def test_a_removed_budget_is_not_missed_and_a_new_one_owes_nothing(database: Database, books: Books) -> None:
    async with database.write() as connection:
        await budgets.remove(connection, books.budget_id)
    await ledgers.a_budget(database, books.key, period=Period.TOTAL, of_key=True)
    assert await ledgers.differing(database) == {}
