"""How every way a task ends turns its reservation into a cost, or gives it back."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from uuid import UUID

import pytest

from tests.store import seeds, spending
from tests.store.spending import IN_DOUBT, NANO, POSSIBLE, RESERVED, SPENT
from tollgate.domain.budgets import NOTHING, Amounts, Period
from tollgate.domain.errors import BudgetExceededError
from tollgate.domain.settling import Bill, Settlement
from tollgate.domain.states import AttemptOutcome, TaskState
from tollgate.store import cancels
from tollgate.store.claims import Claimed
from tollgate.store.database import Database

DAY_BEFORE, DAY_AFTER = (datetime(2026, 1, day, tzinfo=UTC) for day in (30, 31))


async def test_a_task_is_charged_to_the_period_that_it_was_submitted_in(database: Database) -> None:
    key = await seeds.a_key(database)
    budget_id = await spending.a_budget(database, key, period=Period.DAY)
    task = spending.a_task(key, created_at=DAY_BEFORE, not_before=DAY_BEFORE, deadline=seeds.later(10**6))
    await spending.submit(database, [task])
    (claimed,) = await seeds.claim(database, task.id, now=DAY_AFTER)
    await seeds.settle(database, seeds.success(claimed), now=DAY_AFTER)
    assert await spending.stands(database, budget_id) == {"2026-01-30": SPENT}


async def _project(database: Database, task: Claimed) -> UUID:
    project_id: UUID = (await seeds.row(database, task.id)).project_id
    return project_id


async def _succeeded(database: Database, task: Claimed) -> None:
    await seeds.settle(database, seeds.success(task))


async def _failed(database: Database, task: Claimed) -> None:
    await seeds.settle(database, seeds.failure(task))


async def _unstorable(database: Database, task: Claimed) -> None:
    """Paid, and then the answer could not be kept."""
    await seeds.settle(database, seeds.failure(task, bill=seeds.BILL, error_code="unstorable"))


async def _cancelled_queued(database: Database, task: Claimed) -> None:
    await seeds.settle(database, seeds.refusal(task))
    async with database.write() as connection:
        await cancels.cancel(connection, task.id, project_id=await _project(database, task), now=seeds.NOW)


async def _cancelled_running(database: Database, task: Claimed) -> None:
    """Its call was aborted, and may be billed."""
    await seeds.settle(database, seeds.doubt(task, state=TaskState.CANCELLED, bill=POSSIBLE))


async def _cancelled_before_its_retry(database: Database, task: Claimed) -> None:
    async with database.write() as connection:
        await cancels.cancel(connection, task.id, project_id=await _project(database, task), now=seeds.NOW)
    await seeds.settle(database, seeds.refusal(task))


async def _expired(database: Database, task: Claimed) -> None:
    await seeds.settle(database, seeds.refusal(task))
    over = Settlement(
        task_id=task.id, fence=task.fence, attempt=task.attempt, held=TaskState.QUEUED,
        outcome=AttemptOutcome.ABANDONED, state=TaskState.EXPIRED, error_code="expired",
    )  # fmt: skip
    await seeds.settle(database, over)


async def _given_up(database: Database, task: Claimed) -> None:
    await seeds.settle(database, seeds.refusal(task))
    async with database.write() as connection:
        await cancels.give_up(
            connection,
            task.id,
            project_id=await _project(database, task),
            code="no_balance",
            message="paused",
            now=seeds.NOW,
        )


async def _failed_in_doubt(database: Database, task: Claimed) -> None:
    await seeds.settle(database, seeds.doubt(task, state=TaskState.FAILED, bill=POSSIBLE))


async def _rescued_and_answered_late(database: Database, task: Claimed) -> None:
    """Its worker was taken for dead, and answers after all while it waits for its second attempt."""
    await seeds.settle(database, seeds.doubt(task, bill=POSSIBLE))
    await seeds.settle(database, seeds.success(task))


async def _answered_late_after_its_end(database: Database, task: Claimed) -> None:
    await seeds.settle(database, seeds.doubt(task, state=TaskState.FAILED, bill=POSSIBLE))
    await seeds.settle(database, seeds.success(task))


async def _bought_twice(database: Database, task: Claimed) -> None:
    await seeds.settle(database, seeds.doubt(task, bill=POSSIBLE))
    (again,) = await seeds.claim(database, task.id)
    await seeds.settle(database, seeds.success(again))


async def _overtaken_by_a_late_answer(database: Database, task: Claimed) -> None:
    """While its second attempt, which the upstream may have taken, waits to be asked again."""
    await seeds.settle(database, seeds.doubt(task, bill=POSSIBLE))
    (again,) = await seeds.claim(database, task.id)
    await seeds.settle(database, seeds.refusal(again, unanswered=True, bill=POSSIBLE))
    await seeds.settle(database, seeds.success(task))


WAYS_OUT: list[tuple[Callable[[Database, Claimed], Awaitable[None]], Amounts]] = [
    (_succeeded, SPENT),
    (_failed, NOTHING),
    (_unstorable, SPENT),
    (_cancelled_queued, NOTHING),
    (_cancelled_running, IN_DOUBT),
    (_cancelled_before_its_retry, NOTHING),
    (_expired, NOTHING),
    (_given_up, NOTHING),
    (_failed_in_doubt, IN_DOUBT),
    (_rescued_and_answered_late, SPENT),
    (_answered_late_after_its_end, SPENT),
    (_bought_twice, IN_DOUBT + SPENT),
    (_overtaken_by_a_late_answer, IN_DOUBT + SPENT),
]


@pytest.mark.parametrize(("end", "stands"), WAYS_OUT, ids=[end.__name__[1:] for end, _ in WAYS_OUT])
async def test_every_end_gives_the_reservation_back_and_leaves_the_cost(
    database: Database, end: Callable[[Database, Claimed], Awaitable[None]], stands: Amounts
) -> None:
    key = await seeds.a_key(database)
    of_project = await spending.a_budget(database, key)
    of_key = await spending.a_budget(database, key, key_id=key.id, period=Period.DAY, limit_tokens=10**6)
    task = spending.a_task(key)
    await spending.submit(database, [task])
    (claimed,) = await seeds.claim(database, task.id)
    assert await spending.in_total(database, of_key) == RESERVED
    await end(database, claimed)
    row = await seeds.row(database, task.id)
    assert TaskState(row.state).ended
    assert (row.reserved_nano, row.reserved_tokens) == (None, None)
    assert await spending.in_total(database, of_project) == stands
    assert await spending.in_total(database, of_key) == stands


async def test_a_task_that_waits_for_its_next_try_keeps_its_reservation(database: Database) -> None:
    key = await seeds.a_key(database)
    budget_id = await spending.a_budget(database, key)
    task = spending.a_task(key)
    await spending.submit(database, [task])
    (claimed,) = await seeds.claim(database, task.id)
    await seeds.settle(database, seeds.refusal(claimed))
    assert await spending.in_total(database, budget_id) == RESERVED


async def test_a_purchase_in_doubt_counts_and_its_retry_is_reserved_beside_it(database: Database) -> None:
    key = await seeds.a_key(database)
    budget_id = await spending.a_budget(database, key, limit_nano=2 * NANO)
    task = spending.a_task(key)
    await spending.submit(database, [task])
    (claimed,) = await seeds.claim(database, task.id)
    await seeds.settle(database, seeds.doubt(claimed, bill=POSSIBLE))
    assert (await seeds.row(database, task.id)).state == "queued"
    assert await spending.in_total(database, budget_id) == RESERVED + IN_DOUBT
    (refused,) = await spending.submit(database, [spending.a_task(key)])
    assert isinstance(refused, BudgetExceededError)
    assert refused.left == {"cost": "0"}


async def test_a_retry_without_room_fails_the_task_and_gives_its_reservation_back(database: Database) -> None:
    key = await seeds.a_key(database)
    budget_id = await spending.a_budget(database, key, limit_nano=2 * NANO - 1)
    task = spending.a_task(key)
    await spending.submit(database, [task])
    (claimed,) = await seeds.claim(database, task.id)
    (resolution,) = await seeds.settle(database, seeds.doubt(claimed, bill=POSSIBLE, error_message="cut"))
    assert (resolution.task, resolution.settlement.state) == (True, TaskState.FAILED)
    assert (resolution.settlement.outcome, resolution.settlement.error_code) == (AttemptOutcome.UNCERTAIN, "no_answer")
    told = resolution.settlement.error_message or ""
    assert told.startswith("cut (not tried again: this project's budget has no room to buy it once more (left: cost 0")
    assert (await seeds.row(database, task.id)).state == "failed"
    assert await spending.in_total(database, budget_id) == IN_DOUBT


async def test_of_two_retries_with_room_for_one_the_second_fails(database: Database) -> None:
    key = await seeds.a_key(database)
    budget_id = await spending.a_budget(database, key, limit_nano=3 * NANO)
    both = [spending.a_task(key), spending.a_task(key)]
    await spending.submit(database, both)
    claimed = await seeds.claim(database, *(task.id for task in both))
    resolutions = await seeds.settle(database, *(seeds.doubt(task, bill=POSSIBLE) for task in claimed))
    # The first would leave no room for what the second holds already: 2 reserved, 1 in doubt. The second finds
    # another in doubt; failing, it gives back what it held.
    assert [r.settlement.state for r in resolutions] == [TaskState.QUEUED, TaskState.FAILED]
    assert await spending.in_total(database, budget_id) == RESERVED + IN_DOUBT + IN_DOUBT


async def test_a_refused_try_is_repeated_however_low_the_budget_was_set(database: Database) -> None:
    key = await seeds.a_key(database)
    await spending.a_budget(database, key)
    task = spending.a_task(key)
    await spending.submit(database, [task])
    await spending.a_budget(database, key, limit_nano=0)
    (claimed,) = await seeds.claim(database, task.id)
    await seeds.settle(database, seeds.refusal(claimed))
    assert (await seeds.row(database, task.id)).state == "queued"


async def test_a_cost_above_its_reservation_is_shown_and_closes_the_budget(database: Database) -> None:
    key = await seeds.a_key(database)
    budget_id = await spending.a_budget(database, key, limit_nano=2 * NANO)
    task = spending.a_task(key)
    await spending.submit(database, [task])
    (claimed,) = await seeds.claim(database, task.id)
    bill = Bill(prompt_tokens=300, completion_tokens=300, cost_nano=3 * NANO)
    await seeds.settle(database, seeds.success(claimed, bill=bill))
    assert (await spending.in_total(database, budget_id)).spent_nano == 3 * NANO
    (refused,) = await spending.submit(database, [spending.a_task(key)])
    assert refused.left == {"cost": "0"}
