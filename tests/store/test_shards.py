"""What is merged is neither lost nor counted twice, whoever books meanwhile."""

from __future__ import annotations

import asyncio
import random
from collections import defaultdict
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
import sqlalchemy as sa

from tests.store import ledgers, seeds
from tollgate.domain.settling import COUNTS, NO_COUNTS, Booking, Counts
from tollgate.store import roll_up, rows, shards
from tollgate.store.database import Database, WriteConnection
from tollgate.store.reconcile import checks, days, snapshots
from tollgate.store.roll_up import DAILY, HOURLY, ROLL_UPS, RollUp

HOUR = seeds.NOW.replace(minute=0)
LATER = seeds.NOW + timedelta(days=3)
"""When HOUR and its day are long over."""


@pytest.fixture
async def project_id(database: Database) -> UUID:
    return (await seeds.a_key(database)).project_id


def booking(project_id: UUID, *, hours_ago: int = 0, model: str = "m", label: str = "", cost: int = 1) -> Booking:
    return Booking(
        hour=HOUR - timedelta(hours=hours_ago), project_id=project_id, key_id="k", model=model, upstream="u",
        label=label, counts=Counts(attempts=1, cost_nano=cost),
    )  # fmt: skip


async def book(database: Database, *bookings: Booking, shard: int) -> None:
    async with database.write() as connection:
        await rows.execute_together(connection, *roll_up.booking(bookings, shard=shard))


async def merge(database: Database, into: RollUp, *, limit: int = 100) -> int:
    async with database.write() as connection:
        return await shards.merge(connection, into, now=LATER, limit=limit)


async def merge_all(database: Database, *, limit: int = 100) -> None:
    for one in ROLL_UPS:
        while await merge(database, one, limit=limit):
            pass


async def sums(database: Database, source: RollUp) -> dict[tuple[Any, ...], Counts]:
    """By all of the key but the shard."""
    found: defaultdict[tuple[Any, ...], Counts] = defaultdict(lambda: NO_COUNTS)
    for row in await seeds.rows_of(database, source.table):
        found[row[: len(source.key) - 1]] += Counts(**{name: getattr(row, name) for name in COUNTS})
    return dict(found)


async def shards_of(database: Database, source: RollUp) -> list[int]:
    return sorted(row.shard for row in await seeds.rows_of(database, source.table))


async def days_agree(database: Database) -> bool:
    async with database.hold() as connection, snapshots.snapshot(connection):
        return not any([(await checks.find(connection, check, limit=1)).differences for check in days.CHECKS])


@pytest.mark.parametrize("source", ROLL_UPS, ids=lambda one: one.table.name)
async def test_the_shards_of_what_is_over_become_one_row(database: Database, project_id: UUID, source: RollUp) -> None:
    for shard in (0, 3, 15):
        await book(database, booking(project_id, cost=2**shard), shard=shard)
    before = await sums(database, source)
    assert await merge(database, source) == 2
    assert await shards_of(database, source) == [0]
    assert await sums(database, source) == before
    assert await merge(database, source) == 0


async def test_what_goes_on_or_has_just_ended_keeps_its_shards(database: Database, project_id: UUID) -> None:
    for shard in (1, 2):
        await book(database, booking(project_id), booking(project_id, hours_ago=1), shard=shard)
    over = HOUR + timedelta(hours=1) + shards.OVER_AFTER
    for now, shards_left in ((over - timedelta(seconds=1), [0, 1, 2]), (over, [0, 0])):
        async with database.write() as connection:
            assert await shards.merge(connection, HOURLY, now=now) == 2
        assert await shards_of(database, HOURLY) == shards_left


async def test_a_day_goes_on_until_its_last_hour_is_over(database: Database, project_id: UUID) -> None:
    await book(database, booking(project_id), shard=1)
    over = HOUR.replace(hour=0) + timedelta(days=1) + shards.OVER_AFTER
    for now, moved in ((over - timedelta(seconds=1), 0), (over, 1)):
        async with database.write() as connection:
            assert await shards.merge(connection, DAILY, now=now) == moved


async def test_no_more_is_moved_at_once_than_asked(database: Database, project_id: UUID) -> None:
    await book(database, *(booking(project_id, label=f"l{n}") for n in range(5)), shard=4)
    assert [await merge(database, HOURLY, limit=3) for _ in range(3)] == [3, 2, 0]
    assert len(await sums(database, HOURLY)) == 5


@pytest.mark.parametrize("seed", range(3))
async def test_merging_never_changes_a_sum(database: Database, project_id: UUID, seed: int) -> None:
    chance = random.Random(seed)
    expected: defaultdict[Any, Counts] = defaultdict(lambda: NO_COUNTS)
    for _ in range(20):
        given = [a_booking(project_id, chance) for _ in range(chance.randrange(1, 6))]
        await book(database, *given, shard=chance.randrange(20))
        for one in given:
            expected[one.hour, one.project_id, one.key_id, one.model, one.upstream, one.label] += one.counts
        await merge(database, chance.choice(ROLL_UPS), limit=chance.randrange(1, 8))
        assert await sums(database, HOURLY) == expected
    assert await days_agree(database)
    await merge_all(database, limit=3)
    assert await sums(database, HOURLY) == expected
    assert {shard for one in ROLL_UPS for shard in await shards_of(database, one)} == {0}
    assert await days_agree(database)


def a_booking(project_id: UUID, chance: random.Random) -> Booking:
    return booking(
        project_id,
        hours_ago=chance.randrange(30),
        model=chance.choice("mn"),
        label=chance.choice(("", "a")),
        cost=chance.randrange(1, 10**6),
    )


async def test_a_row_that_a_settler_holds_is_left_for_the_next_time(postgres: Database) -> None:
    project_id = (await seeds.a_key(postgres)).project_id
    await book(postgres, booking(project_id), booking(project_id, label="free"), shard=3)
    async with postgres.write() as settling:
        await rows.execute_together(settling, *roll_up.booking([booking(project_id, cost=10)], shard=3))
        assert await merge(postgres, HOURLY) == 1
    assert await shards_of(postgres, HOURLY) == [0, 3]
    assert await merge(postgres, HOURLY) == 1
    assert sorted(counts.cost_nano for counts in (await sums(postgres, HOURLY)).values()) == [1, 11]


@pytest.mark.parametrize("shard", [0, 3])
async def test_a_late_answer_waits_for_the_merging_and_is_counted(postgres: Database, shard: int) -> None:
    project_id = (await seeds.a_key(postgres)).project_id
    await book(postgres, booking(project_id), shard=3)
    async with asyncio.timeout(30), asyncio.TaskGroup() as group:
        async with postgres.write() as merging:
            assert await shards.merge(merging, HOURLY, now=LATER) == 1
            late = group.create_task(book(postgres, booking(project_id, cost=10), shard=shard))
            await seeds.until_waiting(postgres)
        await late
    assert [counts.cost_nano for counts in (await sums(postgres, HOURLY)).values()] == [11]
    assert await days_agree(postgres)


async def test_settlers_and_mergers_side_by_side_neither_lose_nor_wait_in_a_ring(postgres: Database) -> None:
    # Each transaction as the settlers' own: a deadlock would be raised as StoreUnavailableError.
    project_id = (await seeds.a_key(postgres)).project_id
    given: list[Booking] = []
    working = 5

    async def settle(shard: int) -> None:
        nonlocal working
        chance = random.Random(shard)
        for _ in range(40):
            bookings = [a_booking(project_id, chance) for _ in range(6)]
            await book(postgres, *bookings, shard=shard)
            given.extend(bookings)
        working -= 1

    async def keep_merging() -> None:
        while working:
            await merge_all(postgres, limit=7)

    async with asyncio.timeout(100), asyncio.TaskGroup() as group:
        for shard in (0, 0, 1, 2, 2):
            group.create_task(settle(shard))
        for _ in range(2):
            group.create_task(keep_merging())
    await merge_all(postgres)
    found = await sums(postgres, HOURLY)
    assert sum((one.counts for one in given), start=NO_COUNTS) == sum(found.values(), start=NO_COUNTS)
    assert {shard for one in ROLL_UPS for shard in await shards_of(postgres, one)} == {0}
    assert await days_agree(postgres)


async def test_a_rolled_back_merging_leaves_all_where_it_was(database: Database, project_id: UUID) -> None:
    await book(database, booking(project_id), shard=3)

    async def fail(connection: WriteConnection) -> None:
        assert await shards.merge(connection, HOURLY, now=LATER) == 1
        await connection.execute(sa.text("SELECT nothing FROM nowhere"))

    with pytest.raises(sa.exc.DBAPIError):
        async with database.write() as connection:
            await fail(connection)
    assert await shards_of(database, HOURLY) == [3]


async def test_the_books_agree_after_merging(database: Database) -> None:
    await ledgers.fill(database)
    await merge_all(database)
    assert await ledgers.differing(database) == {}
