"""Settlements of purchases that were sent, or are known at the upstream, before anybody knows what they came to."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from tests.store import seeds
from tests.store.test_settlements import ask_to_cancel, attempt_of, booked
from tollgate.domain.settling import NOTHING_BILLED, Bill, Counts, Settlement
from tollgate.domain.states import AttemptOutcome, TaskState
from tollgate.store import receipts
from tollgate.store.claims import Claimed
from tollgate.store.database import Database
from tollgate.store.receipts import Receipt

POSSIBLE_NANO = 700_000
POSSIBLE = Bill(possible_cost_nano=POSSIBLE_NANO, possible_tokens=42)
DOUBTED = Counts(attempts=1, attempts_uncertain=1, possible_cost_nano=POSSIBLE_NANO)


def unanswered(task: Claimed, **changes: Any) -> Settlement:
    """Sent, no answer: the same request_id is to be sent again."""
    again = {"unanswered": True, "credential": "KEY_A", "bill": POSSIBLE, "http_status": None}
    return seeds.refusal(task, **{**again, **changes})


def given_back(task: Claimed) -> Settlement:
    return seeds.refusal(task, not_before=None, counts_as_try=False, http_status=None)


async def submitted(database: Database, **changes: Any) -> Claimed:
    return await seeds.running(database, await seeds.a_key(database), mode="async", **changes)


async def keep_id(database: Database, task: Claimed, upstream_id: str) -> None:
    """Its receipt, with what it may cost."""
    given = Receipt(
        task_id=task.id,
        attempt=task.attempt,
        upstream_id=upstream_id,
        credential="KEY_A",
        price_id=None,
        possible_cost_nano=POSSIBLE_NANO,
        possible_tokens=42,
    )
    async with database.write() as connection:
        await receipts.keep(connection, [given])


async def test_a_cancelled_send_without_an_answer_is_uncertain_with_its_possible_cost(database: Database) -> None:
    task = await submitted(database)
    await ask_to_cancel(database, task.id)
    (resolution,) = await seeds.settle(database, unanswered(task))
    assert resolution.settlement.state is TaskState.CANCELLED
    attempt = await attempt_of(database)
    assert (attempt.outcome, attempt.possible_cost_nano, attempt.error_code) == (
        "uncertain",
        POSSIBLE_NANO,
        "cancelled",
    )
    assert await booked(database) == DOUBTED + Counts(tasks_failed=1)


async def test_a_cancelled_refusal_after_a_send_without_an_answer_is_uncertain(database: Database) -> None:
    task = await submitted(database)
    await seeds.settle(database, unanswered(task))
    (again,) = await seeds.claim(database, task.id)
    await ask_to_cancel(database, task.id)
    await seeds.settle(database, seeds.refusal(again))
    attempt = await attempt_of(database)
    assert (attempt.outcome, attempt.possible_cost_nano) == ("uncertain", POSSIBLE_NANO)
    assert await booked(database) == DOUBTED + Counts(tasks_failed=1)


async def test_a_cancelled_refusal_of_all_that_was_sent_is_abandoned(database: Database) -> None:
    task = await submitted(database)
    await ask_to_cancel(database, task.id)
    await seeds.settle(database, seeds.refusal(task))
    assert (await attempt_of(database)).outcome == "abandoned"
    assert await booked(database) == Counts(tasks_failed=1)


async def test_a_refusal_keeps_what_an_earlier_send_may_have_cost(database: Database) -> None:
    task = await submitted(database)
    await seeds.settle(database, unanswered(task))
    (again,) = await seeds.claim(database, task.id)
    await seeds.settle(database, seeds.refusal(again))
    attempt = await attempt_of(database)
    assert (attempt.outcome, attempt.unanswered, attempt.possible_cost_nano) == ("open", 1, POSSIBLE_NANO)
    assert await booked(database) == Counts()


async def test_a_task_given_back_keeps_its_place_in_its_feed(database: Database) -> None:
    due = seeds.NOW - timedelta(hours=2)
    task = await submitted(database, not_before=due)
    await seeds.settle(database, given_back(task), now=seeds.later(60))
    row = await seeds.row(database, task.id)
    assert (row.state, row.not_before, row.tries) == ("queued", due, 0)


async def doubted_twice(database: Database) -> Claimed:
    """The lost first lease of a purchase whose second send went unanswered, too, and closed it as uncertain."""
    task = await submitted(database)
    await seeds.settle(database, unanswered(task))
    (again,) = await seeds.claim(database, task.id)
    await seeds.settle(database, seeds.doubt(again, state=TaskState.FAILED, bill=POSSIBLE))
    return task


async def test_a_late_refusal_does_not_erase_the_doubt_of_another_send(database: Database) -> None:
    lost = await doubted_twice(database)
    (resolution,) = await seeds.settle(database, seeds.failure(lost))
    assert (resolution.task, resolution.attempt) == (False, False)
    assert (await attempt_of(database)).outcome == "uncertain"
    assert await booked(database) == DOUBTED + Counts(tasks_failed=1)


async def test_a_bill_that_lacks_a_purchase_ends_its_doubt(database: Database) -> None:
    lost = await doubted_twice(database)
    (resolution,) = await seeds.settle(database, seeds.failure(lost, fence=-1))
    assert (resolution.task, resolution.attempt) == (False, True)
    attempt = await attempt_of(database)
    assert (attempt.outcome, attempt.possible_cost_nano) == ("failed", None)
    assert await booked(database) == Counts(attempts=1, attempts_failed=1, tasks_failed=1)


async def test_a_late_refusal_of_the_only_send_ends_its_doubt(database: Database) -> None:
    task = await submitted(database)
    await seeds.settle(database, seeds.doubt(task))
    await seeds.settle(database, seeds.failure(task, bill=NOTHING_BILLED), now=seeds.later(1))
    assert (await attempt_of(database)).outcome == "failed"


async def test_an_id_that_came_in_late_keeps_its_purchase_open(database: Database) -> None:
    """The next worker's repeat was refused as a duplicate before the first one's receipt was read."""
    task = await submitted(database)
    await seeds.settle(database, unanswered(task))
    (again,) = await seeds.claim(database, task.id)
    await keep_id(database, task, "t-1")
    await seeds.settle(database, seeds.doubt(again, bill=POSSIBLE), now=seeds.later(1))
    attempt, row = await attempt_of(database), await seeds.row(database, task.id)
    assert (attempt.outcome, attempt.upstream_id, attempt.possible_cost_nano) == ("open", "t-1", POSSIBLE_NANO)
    assert (row.state, row.attempt, row.tries) == ("queued", 1, 1)
    assert await booked(database) == Counts()
    (third,) = await seeds.claim(database, task.id, now=seeds.later(1))
    assert (third.attempt, third.upstream_id, third.credential) == (1, "t-1", "KEY_A")


async def test_an_id_that_came_in_late_is_polled_before_its_task_fails(database: Database) -> None:
    task = await submitted(database)
    await keep_id(database, task, "t-1")
    await seeds.settle(database, seeds.doubt(task, state=TaskState.FAILED))
    assert (await seeds.row(database, task.id)).state == "queued"
    assert (await attempt_of(database)).outcome == "open"


async def test_a_purchase_whose_known_id_is_lost_is_closed(database: Database) -> None:
    task = await submitted(database)
    await keep_id(database, task, "t-1")
    await seeds.settle(database, seeds.doubt(task, knows_id=True))
    assert (await attempt_of(database)).outcome == AttemptOutcome.UNCERTAIN
    assert (await seeds.row(database, task.id)).attempt == 2
