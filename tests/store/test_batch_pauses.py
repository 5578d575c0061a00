"""A pause for want of room in a budget is over when that begins anew; others are not."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest

from tests.store import seeds, spending
from tests.store.batch_seeds import differing, found, taken_in, tell
from tests.store.spending import NANO
from tollgate.domain.batches import Batch, PauseCode
from tollgate.domain.budgets import Period
from tollgate.domain.settling import Bill
from tollgate.domain.tasks import Key
from tollgate.store import batch_pauses, batches
from tollgate.store.database import Database

COST = Bill(prompt_tokens=10, completion_tokens=10, cost_nano=100_000)
MIDNIGHT = datetime(2026, 3, 2, tzinfo=UTC)
"""The first one after NOW."""
A_MOMENT = timedelta(microseconds=1)


@pytest.fixture
async def key(database: Database) -> Key:
    return await seeds.a_key(database)


async def paused_for_a_budget(database: Database, key: Key, **changes: Any) -> tuple[Batch, list[UUID]]:
    """At NOW, on 1 March: the budget holds what one line cost, and nothing more."""
    await spending.a_budget(database, key, limit_nano=NANO, **changes)
    batch, ids = await taken_in(database, key, expires_at=seeds.later(40 * 86_400))
    await tell(database)
    (task,) = await seeds.claim(database, ids[0])
    await seeds.settle(database, seeds.success(task, bill=COST))
    assert await tell(database) == []
    assert (await found(database, batch)).paused_code is PauseCode.BUDGET
    return batch, ids


async def lift(database: Database, batch: Batch, *, now: datetime) -> bool:
    """Whether it was, and was to be."""
    async with database.write() as connection:
        found_over = batch.id in await batch_pauses.over(connection, now=now)
        lifted = await batch_pauses.lift(connection, batch.id, now=now)
    assert lifted == found_over
    return lifted


@pytest.mark.parametrize(("period", "anew"), [(Period.DAY, MIDNIGHT), (Period.MONTH, datetime(2026, 4, 1, tzinfo=UTC))])
@pytest.mark.parametrize("of_key", [False, True])
async def test_a_pause_for_a_budget_is_over_when_that_begins_anew(
    database: Database, key: Key, period: Period, anew: datetime, of_key: bool
) -> None:
    batch, ids = await paused_for_a_budget(database, key, period=period, key_id=key.id if of_key else None)
    assert f"goes on by itself on {anew.date()}, 00:00 UTC" in ((await found(database, batch)).paused_why or "")
    assert not await lift(database, batch, now=anew - A_MOMENT)
    assert await lift(database, batch, now=anew)
    assert not await lift(database, batch, now=anew)
    assert (await found(database, batch)).paused_at is None
    assert await tell(database, now=anew) == ids[1:2]
    assert await differing(database) == set()


async def test_a_pause_for_a_total_budget_or_another_keys_is_not_over(database: Database, key: Key) -> None:
    other = await seeds.a_key(database)
    await spending.a_budget(database, key, key_id=other.id, period=Period.DAY)
    batch, _ = await paused_for_a_budget(database, key)
    assert "by itself" not in ((await found(database, batch)).paused_why or "")
    assert not await lift(database, batch, now=MIDNIGHT)


async def test_an_owners_pause_outlasts_the_budgets(database: Database, key: Key) -> None:
    batch, _ = await paused_for_a_budget(database, key, period=Period.DAY)
    async with database.write() as connection:
        assert await batches.pause(connection, batch.id, code=PauseCode.OWNER, why="asked", now=seeds.NOW)
    assert (await found(database, batch)).paused_code is PauseCode.OWNER
    assert not await lift(database, batch, now=MIDNIGHT)


async def test_a_pause_for_max_cost_is_not_over_at_midnight(database: Database, key: Key) -> None:
    await spending.a_budget(database, key, period=Period.DAY)
    batch, _ = await taken_in(database, key, max_cost_nano=NANO - 1)
    assert await tell(database) == []
    assert not await lift(database, batch, now=MIDNIGHT)
