"""A task goes to another route: what of its rows changes, in one guarded statement, and what stops it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any
from uuid import UUID

import pytest

from tests.store import seeds, spending
from tests.store.ledgers import differing
from tollgate.domain.fallbacks import Reroute
from tollgate.domain.prices import PriceTable
from tollgate.domain.settling import Bill, Resolution, Settlement
from tollgate.domain.states import AttemptOutcome, OnUncertain, TaskState
from tollgate.store import cancels, receipts, waiting
from tollgate.store.claims import Claimed
from tollgate.store.database import Database
from tollgate.store.receipts import Receipt
from tollgate.store.schema import attempts, budget_periods

THERE = "vllm/glm-4-9b"
ELSEWHERE = Reroute(
    route=THERE,
    lane="local.interactive",
    mode="async",
    on_uncertain=OnUncertain.FAIL,
    reserved_nano=70,
    reserved_tokens=7,
)


def goes(task: Claimed, **changes: Any) -> Settlement:
    """Refused, and sent elsewhere; where it may not go, it is tried again in a minute."""
    leaving = seeds.refusal(
        task,
        outcome=AttemptOutcome.FAILED,
        reroute=ELSEWHERE,
        otherwise=seeds.refusal(task, not_before=seeds.later(60)),
    )
    return replace(leaving, **changes)


def waits(task_id: UUID, *, fence: int = 0, **changes: Any) -> Settlement:
    """Of a task that nobody holds and that never ran."""
    leaving = Settlement(
        task_id=task_id,
        fence=fence,
        attempt=1,
        held=TaskState.QUEUED,
        outcome=AttemptOutcome.OPEN,
        state=TaskState.QUEUED,
        counts_as_try=False,
        not_before=seeds.NOW,
        hinted=True,
        reroute=ELSEWHERE,
    )
    return replace(leaving, **changes)


async def bought(database: Database, task_id: UUID) -> list[tuple[int, str, str]]:
    found = [row for row in await seeds.rows_of(database, attempts) if row.task_id == task_id]
    return sorted((row.number, row.upstream, row.outcome) for row in found)


async def test_its_row_names_the_new_route_and_its_next_attempt_is_bought_there(database: Database) -> None:
    task = await seeds.running(database, await seeds.a_key(database))
    [resolution] = await seeds.settle(database, goes(task))
    row = await seeds.row(database, task.id)
    assert (resolution.task, resolution.attempt) == (True, True)
    assert (row.state, row.route, row.lane, row.mode) == (TaskState.QUEUED, THERE, "local.interactive", "async")
    assert (row.attempt, row.refused_attempts, row.route_tries, row.tries) == (2, 1, 0, 1)
    assert (row.on_uncertain, row.reserved_nano, row.reserved_tokens) == (OnUncertain.FAIL, None, None)
    assert await differing(database) == {}
    [again] = await seeds.claim(database, task.id)
    assert (again.route, again.attempt, again.refused_attempts) == (THERE, 2, 1)
    assert await bought(database, task.id) == [(1, "zhipu", "failed"), (2, "vllm", "open")]


async def test_a_try_that_counts_is_kept_with_the_task_until_it_goes(database: Database) -> None:
    task = await seeds.running(database, await seeds.a_key(database))
    await seeds.settle(database, seeds.refusal(task, counts_on_route=True))
    [again] = await seeds.claim(database, task.id)
    assert (again.route_tries, again.attempt) == (1, 1)
    await seeds.settle(database, goes(again, counts_on_route=True))
    assert (await seeds.row(database, task.id)).route_tries == 0


async def test_a_purchase_that_is_left_in_doubt_is_no_refusal(database: Database) -> None:
    task = await seeds.running(database, await seeds.a_key(database))
    doubt = goes(task, outcome=AttemptOutcome.UNCERTAIN, bill=Bill(possible_cost_nano=700))
    await seeds.settle(database, doubt)
    row = await seeds.row(database, task.id)
    assert (row.route, row.attempt, row.refused_attempts) == (THERE, 2, 0)


async def test_a_lost_lease_sends_nothing_elsewhere(database: Database) -> None:
    task = await seeds.running(database, await seeds.a_key(database))
    await seeds.settle(database, seeds.refusal(task))
    await seeds.claim(database, task.id)
    [resolution] = await seeds.settle(database, goes(task))
    row = await seeds.row(database, task.id)
    assert (resolution.task, row.state, row.route, row.attempt) == (False, TaskState.RUNNING, task.route, 1)


async def test_a_task_that_is_to_be_cancelled_does_not_go_on(database: Database) -> None:
    key = await seeds.a_key(database)
    task = await seeds.running(database, key)
    async with database.write() as connection:
        await cancels.cancel(connection, task.id, project_id=key.project_id, now=seeds.NOW)
    await seeds.settle(database, goes(task))
    row = await seeds.row(database, task.id)
    assert (row.state, row.route) == (TaskState.CANCELLED, task.route)
    assert await differing(database) == {}


async def test_what_the_upstream_turns_out_to_have_is_not_left(database: Database) -> None:
    """The worker that held it before told its id late."""
    task = await seeds.running(database, await seeds.a_key(database), mode="async")
    async with database.write() as connection:
        await receipts.keep(connection, [a_receipt(task)])
    await seeds.settle(database, goes(task))
    row = await seeds.row(database, task.id)
    assert (row.state, row.route, row.attempt, row.not_before) == (TaskState.QUEUED, task.route, 1, seeds.later(60))
    assert await bought(database, task.id) == [(1, "zhipu", "open")]


async def test_a_task_that_waits_is_sent_elsewhere_without_an_attempt(database: Database) -> None:
    [task_id] = await seeds.queued(database, await seeds.a_key(database))
    await seeds.settle(database, waits(task_id))
    row = await seeds.row(database, task_id)
    assert (row.route, row.attempt, row.refused_attempts, row.fence) == (THERE, 1, 0, 0)
    assert row.announced_at == seeds.NOW
    [claimed] = await seeds.claim(database, task_id)
    assert await bought(database, claimed.id) == [(1, "vllm", "open")]


async def test_a_task_that_was_claimed_meanwhile_stays_with_its_worker(database: Database) -> None:
    task = await seeds.running(database, await seeds.a_key(database))
    [resolution] = await seeds.settle(database, waits(task.id))
    assert not resolution.task
    await seeds.settle(database, seeds.refusal(task))
    [resolution] = await seeds.settle(database, waits(task.id))
    assert not resolution.task, "its fence has moved"
    assert (await seeds.row(database, task.id)).route == task.route


async def test_an_open_attempt_is_never_taken_along(database: Database) -> None:
    """It names the upstream that it was opened for."""
    task = await seeds.running(database, await seeds.a_key(database))
    await seeds.settle(database, seeds.refusal(task))
    [resolution] = await seeds.settle(database, waits(task.id, fence=1))
    assert not resolution.task
    assert (await seeds.row(database, task.id)).route == task.route


async def test_those_that_wait_are_read_with_the_attempt_they_would_go_on_with(database: Database) -> None:
    key = await seeds.a_key(database)
    [fresh] = await seeds.queued(database, key)
    refused, polled, runs = [await seeds.running(database, key, mode="async") for _ in range(3)]
    async with database.write() as connection:
        await receipts.keep(connection, [a_receipt(polled)])
    await seeds.settle(database, seeds.refusal(refused), seeds.refusal(polled))
    async with database.read() as connection:
        found = await waiting.read(connection, [polled.id, runs.id, fresh, refused.id])
    assert [(one.id, one.attempted is not None, one.bought) for one in found] == [
        (polled.id, True, True),
        (fresh, False, False),
        (refused.id, True, False),
    ]
    assert found[2].attempted is not None
    assert (found[2].attempted.error_code, found[2].fence) == ("1302", 1)


@pytest.mark.parametrize("held", [True, False])
async def test_what_is_reserved_is_taken_anew_at_the_new_price(database: Database, held: bool) -> None:
    task, budget = await _budgeted(database, limit_nano=10**12)
    await _settled(database, task, held=held)
    row = await seeds.row(database, task)
    [period] = await seeds.rows_of(database, budget_periods)
    assert (row.route, row.reserved_nano, row.reserved_tokens) == (THERE, 70, 7)
    assert (period.reserved_nano, period.reserved_tokens) == (70, 7)
    assert (period.budget_id, period.spent_nano) == (budget, 0)
    assert await differing(database) == {}


@pytest.mark.parametrize("held", [True, False])
@pytest.mark.parametrize("dear", [10**12, None])
async def test_without_room_for_it_in_a_budget_a_task_stays_where_it_is(
    database: Database, held: bool, dear: int | None
) -> None:
    """Too dear, or without a price: then nobody can say."""
    task, _ = await _budgeted(database, limit_nano=10**9)
    before = await seeds.row(database, task)
    [resolution] = await _settled(database, task, held=held, reroute=replace(ELSEWHERE, reserved_nano=dear))
    row = await seeds.row(database, task)
    assert (row.state, row.route, row.attempt) == (TaskState.QUEUED, before.route, 1)
    assert (row.reserved_nano, row.reserved_tokens) == (before.reserved_nano, before.reserved_tokens)
    assert (resolution.task, row.not_before) == ((True, seeds.later(60)) if held else (False, seeds.NOW))
    assert await differing(database) == {}


async def _settled(database: Database, task_id: UUID, *, held: bool, **changes: Any) -> list[Resolution]:
    if not held:
        return await seeds.settle(database, waits(task_id, **changes))
    [task] = await seeds.claim(database, task_id)
    return await seeds.settle(database, goes(task, **changes))


async def _budgeted(database: Database, *, limit_nano: int) -> tuple[UUID, UUID]:
    key = await seeds.a_key(database)
    budget_id = await spending.a_budget(database, key, limit_nano=limit_nano)
    task = seeds.a_task(key, max_tokens=10)
    await spending.submit(database, (task,), prices=PriceTable([seeds.PRICE]))
    return task.id, budget_id


def a_receipt(task: Claimed) -> Receipt:
    return Receipt(
        task_id=task.id,
        attempt=task.attempt,
        upstream_id="t-1",
        credential="KEY_A",
        price_id=None,
        possible_cost_nano=5,
        possible_tokens=5,
    )
