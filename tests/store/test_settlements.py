from __future__ import annotations

import asyncio
from typing import Any

import pytest
import sqlalchemy as sa

from tests.store import seeds
from tollgate.domain.ids import new_id
from tollgate.domain.settling import BILL, Bill, Counts
from tollgate.domain.states import AttemptOutcome, TaskState
from tollgate.store import cancels, settlements
from tollgate.store.database import Database
from tollgate.store.schema import USAGE_COUNTS, attempts, task_results, tasks, usage_hourly

HOUR = seeds.NOW.replace(minute=0)


async def booked(database: Database) -> Counts:
    """All rows of the roll-up together."""
    sums = sa.select(*(sa.func.coalesce(sa.func.sum(usage_hourly.c[name]), 0).label(name) for name in USAGE_COUNTS))
    async with database.read() as connection:
        row = (await connection.execute(sums)).one()
    return Counts(**{name: int(getattr(row, name)) for name in USAGE_COUNTS})


async def attempt_of(database: Database, number: int = 1) -> Any:
    return next(row for row in await seeds.rows_of(database, attempts) if row.number == number)


async def result_of(database: Database) -> Any:
    (row,) = await seeds.rows_of(database, task_results)
    return row


async def ask_to_cancel(database: Database, task_id: Any) -> None:
    row = await seeds.row(database, task_id)
    async with database.write() as connection:
        await cancels.cancel(connection, task_id, project_id=row.project_id, now=seeds.NOW)


async def test_success_ends_the_task_with_its_result_and_its_bill(database: Database) -> None:
    task = await seeds.running(database, await seeds.a_key(database))
    (resolution,) = await seeds.settle(database, seeds.success(task), now=seeds.later(9))
    assert (resolution.task, resolution.attempt) == (True, True)
    row = await seeds.row(database, task.id)
    assert (row.state, row.worker_id, row.ended_at, row.attempt) == ("succeeded", None, seeds.later(9), 1)
    attempt = await attempt_of(database)
    assert (attempt.outcome, attempt.ended_at, attempt.http_status) == ("succeeded", seeds.later(9), 200)
    assert Bill(**{name: getattr(attempt, name) for name in BILL}) == seeds.BILL
    result = await result_of(database)
    assert (result.attempt, result.body, result.error_code) == (1, '{"choices":[]}', None)


async def test_success_is_booked_in_the_hour_of_the_attempts_start(database: Database) -> None:
    key = await seeds.a_key(database)
    task = await seeds.running(database, key, label="billing")
    await seeds.settle(database, seeds.success(task), now=seeds.later(3600), shard=19)
    rows = {row.hour: row for row in await seeds.rows_of(database, usage_hourly)}
    bought, ended = rows[HOUR], rows[HOUR.replace(hour=13)]
    assert (bought.attempts, bought.prompt_tokens, bought.cost_nano, bought.tasks_succeeded) == (1, 100, 600_000, 0)
    assert (ended.attempts, ended.cost_nano, ended.tasks_succeeded) == (0, 0, 1)
    assert (bought.project_id, bought.key_id, bought.model) == (key.project_id, key.id, "glm-4.7")
    assert (bought.upstream, bought.label, bought.shard) == ("zhipu", "billing", 3)


async def test_a_refusal_keeps_the_attempt_open_for_another_try(database: Database) -> None:
    task = await seeds.running(database, await seeds.a_key(database))
    await seeds.settle(database, seeds.refusal(task, not_before=seeds.later(8)))
    row = await seeds.row(database, task.id)
    assert (row.state, row.attempt, row.tries, row.not_before) == ("queued", 1, 1, seeds.later(8))
    assert (row.announced_at, row.worker_id, row.ended_at) == (None, None, None)
    attempt = await attempt_of(database)
    assert (attempt.outcome, attempt.ended_at, attempt.error_code) == ("open", None, "1302")
    assert await booked(database) == Counts()


async def test_a_task_given_back_counts_no_try(database: Database) -> None:
    task = await seeds.running(database, await seeds.a_key(database))
    await seeds.settle(database, seeds.refusal(task, counts_as_try=False))
    assert (await seeds.row(database, task.id)).tries == 0


async def test_a_settler_that_remembers_a_retry_itself_is_not_hurried(database: Database) -> None:
    task = await seeds.running(database, await seeds.a_key(database))
    await seeds.settle(database, seeds.refusal(task, not_before=seeds.later(8), hinted=True))
    assert (await seeds.row(database, task.id)).announced_at == seeds.later(8)


async def test_a_doubtful_try_closes_its_attempt_and_buys_anew(database: Database) -> None:
    task = await seeds.running(database, await seeds.a_key(database))
    await seeds.settle(database, seeds.doubt(task))
    row = await seeds.row(database, task.id)
    assert (row.state, row.attempt, row.tries) == ("queued", 2, 1)
    attempt = await attempt_of(database)
    assert (attempt.outcome, attempt.possible_cost_nano, attempt.cost_nano) == ("uncertain", 700_000, None)
    assert await booked(database) == Counts(attempts=1, attempts_uncertain=1, possible_cost_nano=700_000)


async def test_a_failure_ends_the_task_with_its_error(database: Database) -> None:
    task = await seeds.running(database, await seeds.a_key(database))
    await seeds.settle(database, seeds.failure(task))
    assert (await seeds.row(database, task.id)).state == "failed"
    result = await result_of(database)
    assert (result.attempt, result.body, result.error_code, result.error_message) == (1, None, "1210", "bad call")
    assert await booked(database) == Counts(attempts=1, attempts_failed=1, tasks_failed=1)


async def test_cancelling_wins_over_a_retry(database: Database) -> None:
    task = await seeds.running(database, await seeds.a_key(database))
    await ask_to_cancel(database, task.id)
    (resolution,) = await seeds.settle(database, seeds.refusal(task))
    assert resolution.settlement.state is TaskState.CANCELLED
    assert (await seeds.row(database, task.id)).state == "cancelled"
    assert (await attempt_of(database)).outcome == "abandoned"
    assert (await result_of(database)).error_code == "cancelled"
    assert await booked(database) == Counts(tasks_failed=1)


async def test_a_doubtful_try_of_a_cancelled_task_stays_doubtful(database: Database) -> None:
    task = await seeds.running(database, await seeds.a_key(database))
    await ask_to_cancel(database, task.id)
    await seeds.settle(database, seeds.doubt(task))
    assert (await seeds.row(database, task.id)).state == "cancelled"
    assert (await attempt_of(database)).outcome == "uncertain"


async def test_a_call_that_the_upstream_has_by_an_id_is_never_abandoned(database: Database) -> None:
    task = await seeds.running(database, await seeds.a_key(database))
    async with database.write() as connection:
        await connection.execute(sa.update(attempts).values(upstream_id="upstream-1"))
    await seeds.settle(database, seeds.refusal(task))
    await ask_to_cancel(database, task.id)
    assert (await attempt_of(database)).outcome == "uncertain"
    assert await booked(database) == Counts(attempts=1, attempts_uncertain=1, tasks_failed=1)


async def test_success_wins_over_cancelling(database: Database) -> None:
    task = await seeds.running(database, await seeds.a_key(database))
    await ask_to_cancel(database, task.id)
    await seeds.settle(database, seeds.success(task))
    assert (await seeds.row(database, task.id)).state == "succeeded"


@pytest.mark.parametrize("settlement", [seeds.success, seeds.failure, seeds.refusal, seeds.doubt])
async def test_a_stale_fence_changes_nothing(database: Database, settlement: Any) -> None:
    lost = await seeds.running(database, await seeds.a_key(database))
    await seeds.settle(database, seeds.refusal(lost))
    (held,) = await seeds.claim(database, lost.id)
    before = await seeds.row(database, lost.id), await attempt_of(database)
    (resolution,) = await seeds.settle(database, settlement(lost))
    assert (resolution.task, resolution.attempt, resolution.bookings) == (False, False, ())
    assert (await seeds.row(database, lost.id), await attempt_of(database)) == before
    assert (held.fence, await booked(database)) == (2, Counts())


async def test_a_task_settles_once(database: Database) -> None:
    task = await seeds.running(database, await seeds.a_key(database))
    await seeds.settle(database, seeds.success(task))
    (resolution,) = await seeds.settle(database, seeds.failure(task))
    assert (resolution.task, resolution.attempt) == (False, False)
    assert (await seeds.row(database, task.id)).state == "succeeded"
    assert (await booked(database)).attempts == 1


async def test_a_task_that_is_not_there_is_resolved_to_nothing(database: Database) -> None:
    key = await seeds.a_key(database)
    here = await seeds.running(database, key)
    stranger = seeds.success(here, task_id=new_id())
    resolutions = await seeds.settle(database, stranger, seeds.success(here))
    assert [(r.settlement.task_id, r.task) for r in resolutions] == [(stranger.task_id, False), (here.id, True)]


async def test_a_late_answer_corrects_the_accounts_and_ends_a_queued_task(database: Database) -> None:
    task = await seeds.running(database, await seeds.a_key(database))
    await seeds.settle(database, seeds.doubt(task))
    (resolution,) = await seeds.settle(database, seeds.success(task), now=seeds.later(30))
    assert (resolution.task, resolution.attempt, resolution.late) == (True, True, True)
    row = await seeds.row(database, task.id)
    assert (row.state, row.ended_at) == ("succeeded", seeds.later(30))
    assert (await attempt_of(database)).outcome == "succeeded"
    assert (await result_of(database)).attempt == 1
    assert await booked(database) == Counts(
        tasks_succeeded=1, attempts=1, prompt_tokens=100, cached_tokens=20, completion_tokens=50, cost_nano=600_000
    )


async def test_a_second_late_answer_changes_nothing(database: Database) -> None:
    task = await seeds.running(database, await seeds.a_key(database))
    await seeds.settle(database, seeds.doubt(task))
    await seeds.settle(database, seeds.success(task))
    before = await booked(database)
    (resolution,) = await seeds.settle(database, seeds.success(task, result="{}"))
    assert (resolution.task, resolution.attempt) == (False, False)
    assert (await booked(database), (await result_of(database)).body) == (before, '{"choices":[]}')


async def test_a_late_answer_leaves_a_task_that_runs_again_alone(database: Database) -> None:
    task = await seeds.running(database, await seeds.a_key(database))
    await seeds.settle(database, seeds.doubt(task))
    (again,) = await seeds.claim(database, task.id)
    (resolution,) = await seeds.settle(database, seeds.success(task))
    assert (resolution.task, resolution.attempt) == (False, True)
    assert (await seeds.row(database, task.id)).state == "running"
    await seeds.settle(database, seeds.success(again))
    assert (await booked(database)).cost_nano == 2 * 600_000


async def test_a_late_failure_corrects_the_accounts_only(database: Database) -> None:
    task = await seeds.running(database, await seeds.a_key(database))
    await seeds.settle(database, seeds.doubt(task))
    await seeds.settle(database, seeds.failure(task))
    assert (await seeds.row(database, task.id)).state == "queued"
    assert await booked(database) == Counts(attempts=1, attempts_failed=1)


async def test_a_late_end_abandons_the_newer_attempt_that_was_refused(database: Database) -> None:
    task = await seeds.running(database, await seeds.a_key(database))
    await seeds.settle(database, seeds.doubt(task))
    (again,) = await seeds.claim(database, task.id)
    await seeds.settle(database, seeds.refusal(again))
    await seeds.settle(database, seeds.success(task))
    assert (await seeds.row(database, task.id)).state == "succeeded"
    assert (await attempt_of(database, 2)).outcome == "abandoned"
    assert (await result_of(database)).attempt == 1


async def test_two_settlements_of_one_task_in_one_call_are_booked_once(database: Database) -> None:
    task = await seeds.running(database, await seeds.a_key(database))
    other = await seeds.running(database, await seeds.a_key(database))
    resolutions = await seeds.settle(database, seeds.doubt(task), seeds.success(other), seeds.success(task))
    assert [resolution.task for resolution in resolutions] == [True, True, True]
    assert [resolution.late for resolution in resolutions] == [False, False, True]
    counts = await booked(database)
    assert (counts.attempts, counts.attempts_uncertain, counts.cost_nano) == (2, 0, 2 * 600_000)


async def test_a_task_that_never_ran_ends_without_an_attempt(database: Database) -> None:
    key = await seeds.a_key(database)
    (id_,) = await seeds.queued(database, key)
    async with database.write() as connection:
        await cancels.cancel(connection, id_, project_id=key.project_id, now=seeds.NOW)
    assert (await result_of(database)).attempt == 0
    (row,) = await seeds.rows_of(database, usage_hourly)
    assert (row.upstream, row.tasks_failed, row.attempts) == ("", 1, 0)


async def test_an_error_text_that_no_database_holds_does_not_fail_its_neighbours(database: Database) -> None:
    key = await seeds.a_key(database)
    bad, good = await seeds.running(database, key), await seeds.running(database, key)
    odd = seeds.failure(bad, error_code="x" * 100, error_message="a\0b\ud800" + "y" * 9_000)
    await seeds.settle(database, odd, seeds.success(good))
    message = next(r for r in await seeds.rows_of(database, task_results) if r.task_id == bad.id).error_message
    assert message.startswith("ab?yyy")
    assert len(message) == settlements.MESSAGE_LENGTH
    assert (await seeds.row(database, good.id)).state == "succeeded"


async def test_many_settle_in_one_transaction(database: Database) -> None:
    key = await seeds.a_key(database)
    ids = await seeds.queued(database, key, count=1_000)
    claimed = await seeds.claim(database, *ids)
    resolutions = await seeds.settle(database, *(seeds.success(task) for task in reversed(claimed)))
    assert [r.settlement.task_id for r in resolutions] == ids[::-1]
    assert (await booked(database)).tasks_succeeded == 1_000


async def test_settlers_of_the_same_tasks_in_opposite_orders_do_not_deadlock(postgres: Database) -> None:
    key = await seeds.a_key(postgres)
    for _ in range(5):
        claimed = await seeds.claim(postgres, *await seeds.queued(postgres, key, count=200))
        answers = [seeds.success(task) for task in claimed]
        both = await asyncio.wait_for(
            asyncio.gather(seeds.settle(postgres, *answers), seeds.settle(postgres, *answers[::-1])), timeout=30
        )
        assert sum(resolution.task for resolutions in both for resolution in resolutions) == 200
    assert (await booked(postgres)).tasks_succeeded == 1_000


async def test_a_rolled_back_settlement_leaves_no_trace(database: Database) -> None:
    task = await seeds.running(database, await seeds.a_key(database))

    async def settle_and_fail() -> None:
        async with database.write() as connection:
            await settlements.settle(connection, [seeds.success(task)], now=seeds.NOW)
            raise LookupError

    with pytest.raises(LookupError):
        await settle_and_fail()
    assert (await seeds.row(database, task.id)).state == "running"
    assert await booked(database) == Counts()
    assert (await attempt_of(database)).outcome == AttemptOutcome.OPEN
    assert await seeds.size(database, tasks) == 1
