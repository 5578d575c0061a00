"""Beat merges the shards of the past; see tests/store/test_shards.py."""

from __future__ import annotations

from datetime import timedelta

from tests.store import seeds
from tests.worker.world import World, beat_of
from tollgate.domain.settling import Booking, Counts
from tollgate.store import roll_up, rows, shards
from tollgate.store.database import Database
from tollgate.store.roll_up import ROLL_UPS
from worker import merging


async def book(database: Database, *, labels: int, shard: int) -> None:
    key = await seeds.a_key(database)
    bookings = [
        Booking(
            hour=seeds.NOW.replace(minute=0) - timedelta(days=n % 3), project_id=key.project_id, key_id="k",
            model="m", upstream="u", label=f"l{n}", counts=Counts(attempts=1),
        )
        for n in range(labels)
    ]  # fmt: skip
    async with database.write() as connection:
        await rows.execute_together(connection, *roll_up.booking(bookings, shard=shard))


async def test_all_that_is_over_is_merged_in_as_many_transactions_as_it_takes(database: Database) -> None:
    await book(database, labels=shards.AT_ONCE + 1, shard=5)
    # By hour, by day, and three days' totals.
    assert await merging.merge(database) == 2 * (shards.AT_ONCE + 1) + 3
    for one in ROLL_UPS:
        assert {row.shard for row in await seeds.rows_of(database, one.table)} == {0}
    assert await merging.merge(database) == 0


async def test_a_round_of_the_beat_merges(world: World) -> None:
    await book(world.database, labels=2, shard=5)
    await beat_of(world.database, world.bus, None).round()  # there is nothing to announce
    for one in ROLL_UPS:
        assert {row.shard for row in await seeds.rows_of(world.database, one.table)} == {0}
