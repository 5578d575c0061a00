"""The law of budgets: whatever happened, what stands in a period is what its tasks reserve and their attempts cost."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass, field, replace
from datetime import UTC
from uuid import UUID

import pytest

from tests.store import seeds, spending
from tests.store.test_accounts import Walk
from tollgate.domain.budgets import NOTHING, Period
from tollgate.domain.errors import BudgetExceededError, RateLimitedError
from tollgate.domain.ids import new_id
from tollgate.domain.settling import Bill, Settlement
from tollgate.domain.states import AttemptOutcome, TaskState
from tollgate.domain.tasks import Accepted, Key, NewTask
from tollgate.store import budgets, periods
from tollgate.store.claims import Claimed
from tollgate.store.database import Database
from tollgate.store.foresight import Foresight
from tollgate.store.schema import tasks

STEPS = 150
POSSIBLE = spending.POSSIBLE


@dataclass(slots=True, kw_only=True)
class SpendingWalk(Walk):
    """A random sequence of what everybody does, where no answer costs more than was reserved for it."""

    keys: list[Key]
    foresight: Foresight = field(default_factory=Foresight)
    foreseen: int = 0
    """Submissions whose budgets were not read before they were made."""
    refused: Counter[type[Exception]] = field(default_factory=Counter)
    known: list[NewTask] = field(default_factory=list)

    async def step(self) -> None:
        self.now = seeds.later((self.now - seeds.NOW).total_seconds() + self.random.choice((1, 60, 1500)))
        often = (self.submit, self.submit, self.claim, self.settle, self.settle, self.settle)
        await self.random.choice((*often, self.rescue, self.cancel, self.expire, self.replace_a_budget))()

    async def submit(self) -> None:
        """Two submissions of some tasks; now and then one that was there before."""
        given = [[self.a_task() for _ in range(self.random.randrange(1, 3))] for _ in range(2)]
        new = [task for submission in given for task in submission]
        self.foreseen += self.foresight.of(new, prices=spending.PRICES) is not None
        outcomes = await spending.take_in(self.database, self.foresight, *given)
        for submission, outcome in zip(given, outcomes, strict=True):
            if isinstance(outcome, BudgetExceededError | RateLimitedError):
                self.refused[type(outcome)] += 1
                continue
            assert all(isinstance(one, Accepted) for one in outcome)
            self.known += submission
            self.ids += [task.id for task, one in zip(submission, outcome, strict=True) if not one.duplicate]

    def a_task(self) -> NewTask:
        if self.known and self.random.random() < 0.2:
            return replace(self.random.choice(self.known), id=new_id(), created_at=self.now)
        far = seeds.later(10**7)
        key, name = self.random.choice(self.keys), f"request-{self.random.randrange(10**9)}"
        return spending.a_task(key, request_id=name, created_at=self.now, deadline=far, retry_until=far)

    def answer(self, task: Claimed) -> Settlement:
        n = self.random.randrange(1, 50)
        bill = Bill(prompt_tokens=n, completion_tokens=n, cost_nano=self.random.choice((None, n * 10_000)))
        wait = {"not_before": self.now}
        return self.random.choice(
            (
                seeds.success(task, bill=bill),
                seeds.success(task, bill=bill),
                seeds.failure(task),
                seeds.failure(task, outcome=AttemptOutcome.FAILED, state=TaskState.QUEUED, bill=bill, **wait),
                seeds.refusal(task, **wait),
                seeds.refusal(task, **wait, unanswered=True, bill=POSSIBLE),
                seeds.doubt(task, **wait, bill=POSSIBLE),
            )
        )

    async def rescue(self) -> None:
        if self.leases:
            task = self.random.choice(self.leases[-6:])
            await seeds.settle(self.database, seeds.doubt(task, not_before=self.now, bill=POSSIBLE), now=self.now)

    async def expire(self) -> None:
        task_id = self.random.choice(self.ids)
        row = await seeds.row(self.database, task_id)
        over = Settlement(
            task_id=task_id, fence=row.fence, attempt=row.attempt, held=TaskState.QUEUED,
            outcome=AttemptOutcome.ABANDONED, state=TaskState.EXPIRED, error_code="expired",
        )  # fmt: skip
        await seeds.settle(self.database, over, now=self.now)

    async def replace_a_budget(self) -> None:
        """It is removed while tasks that name it are open, and made anew, empty."""
        if self.random.random() < 0.2:
            async with self.database.write() as connection:
                chosen = self.random.choice(await budgets.balances(connection, now=self.now)).budget
                await budgets.remove(connection, chosen.id)
                await budgets.put(connection, replace(chosen, id=new_id()), now=self.now)


async def begin(database: Database, *, seed: int, in_flight: bool = True) -> SpendingWalk:
    one, other = await seeds.a_key(database), await seeds.a_key(database)
    await spending.a_budget(database, one, limit_nano=12 * spending.NANO, period=Period.DAY)
    await spending.a_budget(database, one, limit_nano=None, limit_tokens=60 * spending.TOKENS)
    nano, tokens = 8 * spending.NANO, 9 * spending.TOKENS
    await spending.a_budget(database, other, key_id=other.id, period=Period.MONTH, limit_nano=nano, limit_tokens=tokens)
    if in_flight:
        await spending.a_budget(database, one, key_id=one.id, limit_tasks=8, **spending.IN_FLIGHT)
        await spending.a_budget(database, one, limit_tasks=13, **spending.IN_FLIGHT)
    walk = SpendingWalk(
        database=database, random=random.Random(seed), ids=[], project_id=one.project_id, keys=[one, other]
    )
    while len(walk.ids) < 6:
        await walk.submit()
    return walk


async def no_budget_is_overdrawn(database: Database) -> None:
    async with database.read() as connection:
        found = await periods.read(connection, await spending.kept(database))
    for budget, stands in found.values():
        assert budget.limit_nano is None or stands.nano <= budget.limit_nano
        assert budget.limit_tokens is None or stands.tokens <= budget.limit_tokens
        assert budget.limit_tasks is None or stands.reserved_tasks <= budget.limit_tasks


@pytest.mark.parametrize("in_flight", [True, False])
@pytest.mark.parametrize("seed", range(3))
async def test_what_stands_is_what_tasks_reserve_and_attempts_cost(
    database: Database, seed: int, in_flight: bool
) -> None:
    walk = await begin(database, seed=seed, in_flight=in_flight)
    for _ in range(STEPS):
        await walk.step()
        await no_budget_is_overdrawn(database)
    should, stands = await spending.from_the_rows(database), await spending.kept(database)
    assert stands == {period: should.get(period, NOTHING) for period in stands}
    assert {period for period in should if period[0] in {budget_id for budget_id, _ in stands}} <= set(stands)
    assert walk.refused[BudgetExceededError], "the budgets were felt"
    if in_flight:
        assert walk.refused[RateLimitedError], "and those of tasks in flight"
    else:
        assert walk.foreseen, "some without reading them"
    assert {row.created_at.astimezone(UTC).day for row in await seeds.rows_of(database, tasks)} > {1}


@pytest.mark.parametrize("seed", range(2))
async def test_nothing_is_reserved_where_no_task_is_open(database: Database, seed: int) -> None:
    walk = await begin(database, seed=seed)
    for _ in range(STEPS // 2):
        await walk.step()
    for row in await seeds.rows_of(database, tasks):
        await walk_out(walk, row.id)
    for stands in (await spending.kept(database)).values():
        assert (stands.reserved_nano, stands.reserved_tokens, stands.reserved_tasks) == (0, 0, 0)
    assert {row.reserved_nano for row in await seeds.rows_of(database, tasks)} == {None}


async def walk_out(walk: SpendingWalk, task_id: UUID) -> None:
    """The task ends, whatever it is about."""
    row = await seeds.row(walk.database, task_id)
    if row.state == TaskState.QUEUED:
        await seeds.claim(walk.database, task_id, now=seeds.later(10**6))
        row = await seeds.row(walk.database, task_id)
    if row.state == TaskState.RUNNING:
        held = next((lease for lease in walk.leases if lease.id == task_id and lease.fence == row.fence), None)
        given = Settlement(
            task_id=task_id, fence=row.fence, attempt=held.attempt if held else row.attempt,
            outcome=AttemptOutcome.FAILED, state=TaskState.FAILED, error_code="1210",
        )  # fmt: skip
        await seeds.settle(walk.database, given, now=walk.now)
    assert TaskState((await seeds.row(walk.database, task_id)).state).ended
