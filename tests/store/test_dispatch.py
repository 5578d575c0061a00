"""Lines of batches reserve in budgets when they are told to workers, and a batch without room is paused."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import pytest
import sqlalchemy as sa

from tests.store import batch_seeds, seeds, spending
from tests.store.batch_seeds import differing, found, taken_in, tell
from tests.store.test_accounts import Walk
from tests.store.test_budget_law import no_budget_is_overdrawn
from tollgate.domain.batches import Batch, BatchState, PauseCode
from tollgate.domain.budgets import NOTHING, Amounts, Period
from tollgate.domain.prices import PriceTable
from tollgate.domain.settling import Bill, Settlement
from tollgate.domain.states import AttemptOutcome, TaskState
from tollgate.domain.tasks import Key
from tollgate.store import announce, batches
from tollgate.store.claims import Claimed
from tollgate.store.database import Database
from tollgate.store.queues import Queue
from tollgate.store.schema import budgets, tasks

NANO, RESERVED = spending.NANO, spending.RESERVED
COST = Bill(prompt_tokens=10, completion_tokens=10, cost_nano=100_000)


async def own_budget(database: Database, batch: Batch) -> Amounts:
    """What stands in the batch's max_cost."""
    (row,) = [row for row in await seeds.rows_of(database, budgets) if row.batch_id == batch.id]
    return await spending.in_total(database, row.id)


async def pause(database: Database, batch: Batch) -> bool:
    async with database.write() as connection:
        return await batches.pause(connection, batch.id, code=PauseCode.OWNER, why="asked", now=seeds.NOW)


async def resume(database: Database, batch: Batch, **changes: Any) -> None:
    async with database.write() as connection:
        fresh = await batches.find(connection, batch.id, project_id=batch.project_id)
        await batches.resume(connection, fresh, now=seeds.NOW, **changes)


def times(amounts: Amounts, count: int) -> Amounts:
    return sum([amounts] * count, start=NOTHING)


@pytest.fixture
async def key(database: Database) -> Key:
    return await seeds.a_key(database)


async def test_lines_reserve_when_they_are_told_and_not_before(database: Database, key: Key) -> None:
    budget_id = await spending.a_budget(database, key)
    of_key = await spending.a_budget(database, key, key_id=key.id)
    batch, ids = await taken_in(database, key, max_cost_nano=9 * NANO)
    assert await spending.in_total(database, budget_id) == NOTHING
    assert set(await tell(database)) == set(ids)
    for stands in (await spending.in_total(database, budget_id), await own_budget(database, batch)):
        assert stands == times(RESERVED, 3)
    assert await spending.in_total(database, of_key) == times(RESERVED, 3)
    assert await differing(database) == set()


async def test_lines_that_are_told_again_do_not_reserve_again(database: Database, key: Key) -> None:
    batch, ids = await taken_in(database, key, max_cost_nano=9 * NANO)
    await tell(database)
    assert set(await tell(database, now=seeds.later(31))) == set(ids)
    assert await own_budget(database, batch) == times(RESERVED, 3)


async def test_what_fits_is_told_and_the_rest_waits_without_a_pause(database: Database, key: Key) -> None:
    batch, ids = await taken_in(database, key, count=5, max_cost_nano=2 * NANO)
    assert await tell(database) == ids[:2]
    assert await tell(database) == []
    # What is under way may come to less.
    assert (await found(database, batch)).paused_at is None
    for task in await seeds.claim(database, *ids[:2]):
        await seeds.settle(database, seeds.success(task, bill=COST))
    assert await tell(database) == ids[2:3]
    assert await own_budget(database, batch) == RESERVED + times(Amounts(spent_nano=100_000, spent_tokens=20), 2)
    assert await differing(database) == set()


async def test_a_batch_that_came_to_its_max_cost_is_paused_and_says_so(database: Database, key: Key) -> None:
    batch, ids = await taken_in(database, key, max_cost_nano=NANO)
    await tell(database)
    (task,) = await seeds.claim(database, *ids[:1])
    await seeds.settle(database, seeds.success(task, bill=COST))
    assert await tell(database, now=seeds.later(5)) == []
    paused = await found(database, batch)
    assert (paused.state, paused.paused_code, paused.paused_at) == (
        BatchState.IN_PROGRESS, PauseCode.MAX_COST, seeds.later(5),
    )  # fmt: skip
    assert paused.paused_why is not None
    assert "this batch's max_cost does not have room" in paused.paused_why


async def test_a_higher_max_cost_lets_a_batch_go_on(database: Database, key: Key) -> None:
    batch, ids = await taken_in(database, key, max_cost_nano=NANO - 1)
    assert await tell(database) == []
    assert (await found(database, batch)).paused_code is PauseCode.MAX_COST
    await resume(database, batch, max_cost_nano=2 * NANO)
    going = await found(database, batch)
    assert (going.paused_at, going.paused_code, going.paused_why, going.max_cost_nano) == (None, None, None, 2 * NANO)
    assert await tell(database) == ids[:2]


async def test_a_max_cost_that_is_set_later_counts_what_was_spent_before(database: Database, key: Key) -> None:
    batch, ids = await taken_in(database, key)
    await tell(database, limit=2)
    for task in await seeds.claim(database, *ids[:2]):
        await seeds.settle(database, seeds.success(task, bill=Bill(cost_nano=NANO, prompt_tokens=1)))
    await resume(database, batch, max_cost_nano=3 * NANO - 1)
    assert await tell(database) == []
    assert (await found(database, batch)).paused_code is PauseCode.MAX_COST
    await resume(database, batch, max_cost_nano=3 * NANO)
    assert await tell(database) == ids[2:]
    assert await differing(database) == set()


async def test_a_full_budget_pauses_only_when_nothing_in_it_is_under_way(database: Database, key: Key) -> None:
    await spending.a_budget(database, key, limit_nano=NANO)
    batch, ids = await taken_in(database, key)
    assert await tell(database) == ids[:1]
    # Told, and perhaps not claimed for a while: it holds what there is, and may come to less.
    assert await tell(database) == []
    assert (await found(database, batch)).paused_at is None
    (task,) = await seeds.claim(database, ids[0])
    assert await tell(database) == []
    assert (await found(database, batch)).paused_at is None
    await seeds.settle(database, seeds.success(task, bill=COST))
    assert await tell(database) == []
    paused = await found(database, batch)
    assert paused.paused_code is PauseCode.BUDGET
    assert paused.paused_why is not None
    assert "this project's budget does not have room" in paused.paused_why


async def test_a_line_without_a_price_pauses_its_batch_where_money_is_limited(database: Database, key: Key) -> None:
    limited, _ = await taken_in(database, key, max_cost_nano=NANO)
    free, ids = await taken_in(database, key)
    assert set(await tell(database, prices=PriceTable([]))) == set(ids)
    paused = await found(database, limited)
    assert paused.paused_code is PauseCode.UNPRICED
    assert "has no price" in (paused.paused_why or "")
    assert (await found(database, free)).paused_at is None


async def test_a_limit_of_tasks_in_flight_throttles_and_never_pauses(database: Database, key: Key) -> None:
    await spending.a_budget(database, key, key_id=key.id, limit_tasks=2, **spending.IN_FLIGHT)
    batch, ids = await taken_in(database, key, count=5)
    assert await tell(database) == ids[:2]
    assert await tell(database) == []
    for task in await seeds.claim(database, *ids[:2]):
        await seeds.settle(database, seeds.success(task, bill=COST))
    assert await tell(database) == ids[2:4]
    assert (await found(database, batch)).paused_at is None


async def test_a_worker_does_not_ask_again_at_once_where_nothing_had_room(database: Database, key: Key) -> None:
    await spending.a_budget(database, key, key_id=key.id, limit_tasks=2, **spending.IN_FLIGHT)
    await taken_in(database, key, count=9)
    more = []
    for _ in range(2):
        async with database.write() as connection:
            taken = await announce.take_due(connection, {batch_seeds.QUEUE: 4}, now=seeds.NOW, prices=spending.PRICES)
        more.append(taken[batch_seeds.QUEUE].more)
    assert more == [True, False]


async def test_a_neighbours_full_budget_holds_nobody_up(database: Database, key: Key) -> None:
    poor, _ = await taken_in(database, key, max_cost_nano=NANO - 1)
    rich, ids = await taken_in(database, key)
    assert set(await tell(database)) == set(ids)
    assert (await found(database, rich)).paused_at is None
    assert (await found(database, poor)).paused_code is PauseCode.MAX_COST


@pytest.mark.parametrize("settled", [seeds.refusal, seeds.doubt])
async def test_a_line_that_waits_for_another_try_keeps_its_reservation(
    database: Database, key: Key, settled: Any
) -> None:
    batch, ids = await taken_in(database, key, count=1, max_cost_nano=9 * NANO)
    await tell(database)
    (task,) = await seeds.claim(database, *ids)
    await seeds.settle(database, settled(task, bill=Bill()))
    assert await own_budget(database, batch) == RESERVED
    assert await tell(database, now=seeds.later(60)) == ids
    assert await own_budget(database, batch) == RESERVED
    assert await differing(database) == set()


async def test_lines_without_room_do_not_hold_up_one_that_holds_its_place(database: Database, key: Key) -> None:
    batch, _ = await taken_in(database, key, count=9, max_cost_nano=2 * NANO)
    told = await tell(database, limit=2)  # any two: all are of one moment
    assert len(told) == 2
    (task,) = await seeds.claim(database, told[0])
    await seeds.settle(database, seeds.refusal(task, not_before=seeds.later(5)))
    # The one waits for another try, behind all the others; the other's hint was lost.
    assert await tell(database, limit=2, now=seeds.later(6)) == [told[0]]
    assert await tell(database, limit=2, now=seeds.later(7)) == []
    assert set(await tell(database, limit=2, now=seeds.later(60))) == set(told)
    assert (await found(database, batch)).paused_at is None
    assert await own_budget(database, batch) == times(RESERVED, 2)


@pytest.mark.parametrize("state", [TaskState.EXPIRED, TaskState.CANCELLED])
async def test_a_line_that_ends_unbegun_frees_its_reservation(database: Database, key: Key, state: TaskState) -> None:
    batch, ids = await taken_in(database, key, count=1, max_cost_nano=9 * NANO)
    await tell(database)
    over = Settlement(
        task_id=ids[0], fence=0, attempt=1, held=TaskState.QUEUED, outcome=AttemptOutcome.ABANDONED, state=state,
        error_code="over",
    )  # fmt: skip
    await seeds.settle(database, over)
    assert await own_budget(database, batch) == NOTHING
    assert await differing(database) == set()


async def test_a_line_begun_before_there_was_a_budget_never_counts_in_it(database: Database, key: Key) -> None:
    _, ids = await taken_in(database, key, count=1)
    await tell(database)
    (task,) = await seeds.claim(database, *ids)
    await seeds.settle(database, seeds.doubt(task, bill=spending.POSSIBLE))
    budget_id = await spending.a_budget(database, key)
    assert await tell(database, now=seeds.later(60)) == ids
    assert await spending.in_total(database, budget_id) == NOTHING
    # Its first attempt's answer comes late: it was never in the budget, and must not be taken off it.
    await seeds.settle(database, seeds.success(task, bill=COST))
    assert await spending.in_total(database, budget_id) == NOTHING
    assert await differing(database) == set()


async def test_claims_refuse_the_lines_of_a_paused_batch_though_they_were_told(database: Database, key: Key) -> None:
    batch, ids = await taken_in(database, key)
    await tell(database)
    assert await pause(database, batch)
    assert not await pause(database, batch)
    assert await seeds.claim(database, *ids) == []
    assert await tell(database, now=seeds.later(60)) == []


async def test_claims_refuse_the_lines_of_a_batch_that_is_being_cancelled(database: Database, key: Key) -> None:
    batch, ids = await taken_in(database, key)
    await tell(database)
    async with database.write() as connection:
        await batches.cancel(connection, batch.id, now=seeds.NOW)
    assert await seeds.claim(database, *ids) == []
    assert await tell(database, now=seeds.later(60)) == []


async def test_feeds_pass_over_a_paused_batch(database: Database, key: Key) -> None:
    batch, _ = await taken_in(database, key, count=50)
    _, small = await taken_in(database, key, count=5)
    await pause(database, batch)
    assert set(await tell(database, limit=10)) == set(small)


async def test_a_batch_that_goes_on_is_told_at_once(database: Database, key: Key) -> None:
    batch, ids = await taken_in(database, key)
    await tell(database)
    await pause(database, batch)
    await resume(database, batch)
    assert set(await tell(database)) == set(ids)
    assert len(await seeds.claim(database, *ids)) == 3


async def test_a_batch_that_paused_itself_tells_what_came_back_meanwhile_at_once(database: Database, key: Key) -> None:
    batch, ids = await taken_in(database, key, count=2, max_cost_nano=NANO)
    await tell(database)
    (task,) = await seeds.claim(database, ids[0])
    await seeds.settle(database, seeds.refusal(task, hinted=True))
    await pause(database, batch)
    await resume(database, batch)
    assert ids[0] in await tell(database)


async def test_a_paused_batch_holds_nothing_for_lines_that_were_not_begun(database: Database, key: Key) -> None:
    budget_id = await spending.a_budget(database, key)
    batch, ids = await taken_in(database, key, count=3, max_cost_nano=9 * NANO)
    await tell(database)
    (task,) = await seeds.claim(database, ids[0])
    await pause(database, batch)
    assert await spending.in_total(database, budget_id) == await own_budget(database, batch) == RESERVED
    assert await differing(database) == set()
    await resume(database, batch)
    assert await tell(database) == ids[1:]
    assert await own_budget(database, batch) == times(RESERVED, 3)
    await seeds.settle(database, seeds.success(task, bill=COST))
    assert await differing(database) == set()


async def test_a_hint_of_before_a_pause_begins_no_line_that_holds_nothing(database: Database, key: Key) -> None:
    batch, ids = await taken_in(database, key, max_cost_nano=9 * NANO)
    await tell(database)
    await pause(database, batch)
    await resume(database, batch)
    assert await seeds.claim(database, *ids) == []
    await tell(database)
    assert len(await seeds.claim(database, *ids)) == 3
    assert await own_budget(database, batch) == times(RESERVED, 3)


async def test_a_pause_leaves_what_was_bought_before_in_its_budget(database: Database, key: Key) -> None:
    """Also of a line that no worker ever claimed: an upstream's batch bought it, and it came back."""
    batch, ids = await taken_in(database, key, count=1, max_cost_nano=9 * NANO)
    await tell(database)
    (task,) = await seeds.claim(database, *ids)
    await seeds.settle(database, seeds.doubt(task, bill=spending.POSSIBLE))
    async with database.write() as connection:
        await connection.execute(sa.update(tasks).values(started_at=None))
    assert await tell(database, now=seeds.later(60)) == ids
    await pause(database, batch)
    assert await own_budget(database, batch) == RESERVED + spending.IN_DOUBT
    assert await differing(database) == set()


async def test_a_pause_leaves_the_neighbours_hints_alone(database: Database, key: Key) -> None:
    batch, ids = await taken_in(database, key)
    await taken_in(database, key)
    await tell(database)
    await pause(database, batch)
    await resume(database, batch)
    assert set(await tell(database)) == set(ids)


async def test_lines_of_two_queues_lock_budgets_in_one_order(postgres: Database) -> None:
    """A settler that holds the lesser budget and wants the greater one meets no announcer that holds the greater."""
    key = await seeds.a_key(postgres)
    one, other = [
        await taken_in(postgres, key, count=2, route=route, max_cost_nano=9 * NANO) for route in ("a/m", "b/m")
    ]
    by_budget = {row.batch_id: row.id for row in await seeds.rows_of(postgres, budgets)}
    least = min((one, other), key=lambda made: by_budget[made[0].id])
    most = other if least is one else one
    routes = {one[0].id: "a/m", other[0].id: "b/m"}
    free = PriceTable([])
    for batch in (one, other):
        await postgres_unlimited(postgres, batch[0])

    async def told() -> None:
        wanted = {Queue(route=routes[of[0].id], lane=batch_seeds.LANE): 9 for of in (most, least)}
        async with postgres.write() as connection:
            await announce.take_due(connection, wanted, now=seeds.NOW, prices=free)

    async with postgres.write() as settler:
        await settler.exec_driver_sql(
            f"SELECT 1 FROM budget_periods WHERE budget_id = '{by_budget[least[0].id]}' FOR UPDATE"
        )
        telling = asyncio.create_task(told())
        await seeds.until_waiting(postgres)
        await settler.exec_driver_sql(
            f"SELECT 1 FROM budget_periods WHERE budget_id = '{by_budget[most[0].id]}' FOR UPDATE"
        )
    await telling


async def postgres_unlimited(database: Database, batch: Batch) -> None:
    """Its budget limits tokens, so that lines need no price."""
    async with database.write() as connection:
        await connection.exec_driver_sql(
            f"UPDATE budgets SET limit_nano = NULL, limit_tokens = 1000000 WHERE batch_id = '{batch.id}'"
        )


async def test_an_announcer_waits_for_nobody_who_changes_a_batch(postgres: Database) -> None:
    """Whoever pauses one holds it, and wants the budgets that the announcer holds."""
    key = await seeds.a_key(postgres)
    batch, _ = await taken_in(postgres, key, max_cost_nano=NANO - 1)
    async with postgres.write() as owner:
        await owner.exec_driver_sql(f"SELECT 1 FROM batches WHERE id = '{batch.id}' FOR NO KEY UPDATE")
        async with asyncio.timeout(20):
            assert await tell(postgres) == []
    assert (await found(postgres, batch)).paused_at is None
    await tell(postgres)
    assert (await found(postgres, batch)).paused_code is PauseCode.MAX_COST


@dataclass(slots=True, kw_only=True)
class BatchWalk(Walk):
    """What everybody does with two batches of one key, whose lines cost no more than was reserved for them."""

    batches: list[Batch]
    paused: Counter[PauseCode] = field(default_factory=Counter)

    async def step(self) -> None:
        self.now = seeds.later((self.now - seeds.NOW).total_seconds() + self.random.choice((1, 20, 40)))
        often = (self.tell, self.tell, self.claim, self.claim, self.settle, self.settle)
        await self.random.choice((*often, self.rescue, self.cancel, self.pause, self.resume))()

    async def tell(self) -> None:
        await tell(self.database, limit=self.random.randrange(1, 9), now=self.now)
        for batch in self.batches:
            code = (await found(self.database, batch)).paused_code
            if code is not None:
                self.paused[code] += 1

    async def pause(self) -> None:
        await pause(self.database, self.random.choice(self.batches))

    async def resume(self) -> None:
        await resume(self.database, self.random.choice(self.batches))

    def answer(self, task: Claimed) -> Settlement:
        n = self.random.randrange(1, 50)
        bill = Bill(prompt_tokens=n, completion_tokens=n, cost_nano=n * 10_000)
        wait = {"not_before": self.now}
        return self.random.choice(
            (
                seeds.success(task, bill=bill),
                seeds.failure(task),
                seeds.failure(task, outcome=AttemptOutcome.FAILED, state=TaskState.QUEUED, bill=bill, **wait),
                seeds.refusal(task, **wait),
                seeds.doubt(task, **wait, bill=spending.POSSIBLE),
            )
        )

    async def rescue(self) -> None:
        if self.leases:
            task = self.random.choice(self.leases[-6:])
            lost = seeds.doubt(task, not_before=self.now, bill=spending.POSSIBLE)
            await seeds.settle(self.database, lost, now=self.now)

    async def out(self) -> None:
        """All that can be bought is, until nothing is under way: then what is left is paused."""
        for batch in self.batches:
            await resume(self.database, batch)
        bill = Bill(prompt_tokens=50, completion_tokens=50, cost_nano=NANO - 1)
        for _ in range(15):
            self.now = seeds.later((self.now - seeds.NOW).total_seconds() + 40)
            await self.tell()
            self.leases += await seeds.claim(self.database, *self.ids, now=self.now)
            fences = {row.id: row.fence for row in await seeds.rows_of(self.database, tasks) if row.worker_id}
            held = [seeds.success(task, bill=bill) for task in self.leases if fences.get(task.id) == task.fence]
            await seeds.settle(self.database, *held, now=self.now)


async def begin(database: Database, *, seed: int) -> BatchWalk:
    key = await seeds.a_key(database)
    await spending.a_budget(database, key, limit_nano=14 * NANO, period=Period.DAY)
    await spending.a_budget(database, key, key_id=key.id, limit_tasks=7, **spending.IN_FLIGHT)
    made = [await taken_in(database, key, count=20, max_cost_nano=limit * NANO) for limit in (4, 7)]
    ids = [line for _, lines in made for line in lines]
    return BatchWalk(
        database=database, random=random.Random(seed), ids=ids, project_id=key.project_id,
        batches=[batch for batch, _ in made],
    )  # fmt: skip


@pytest.mark.parametrize("seed", range(4))
async def test_no_step_passes_max_cost_or_a_budget_and_all_sums_agree(database: Database, seed: int) -> None:
    walk = await begin(database, seed=seed)
    for n in range(120):
        await walk.step()
        await no_budget_is_overdrawn(database)
        if n % 30 == 29:
            assert await differing(database) == set()
    await walk.out()
    await no_budget_is_overdrawn(database)
    assert await differing(database) == set()
    should, stands = await spending.from_the_rows(database), await spending.kept(database)
    assert stands == {period: should.get(period, NOTHING) for period in stands}
    assert walk.paused[PauseCode.OWNER]
    assert walk.paused[PauseCode.MAX_COST] or walk.paused[PauseCode.BUDGET]
    assert {row.reserved_nano for row in await seeds.rows_of(database, tasks)} == {None}
    assert {row.charged_to for row in await seeds.rows_of(database, tasks)} > {None}
