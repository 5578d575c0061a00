"""Tasks in flight of a key or a project: never more than the limit, and let go on every way out."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any
from uuid import UUID

import pytest
import sqlalchemy as sa

from tests.store import ledgers, seeds, spending
from tests.store.test_reservations import is_accepted
from tollgate.domain.errors import BudgetExceededError, NotFoundError, RateLimitedError
from tollgate.domain.rates import NO_LIMITS, KeyLimits
from tollgate.domain.settling import Settlement
from tollgate.domain.states import AttemptOutcome, TaskState
from tollgate.domain.tasks import Key
from tollgate.store import cancels, key_limits, keys
from tollgate.store.claims import Claimed
from tollgate.store.database import Database
from tollgate.store.schema import budgets, tasks


async def limit(database: Database, key: Key, **changes: int | None) -> KeyLimits:
    """The limits of `key` after `changes`."""
    async with database.write() as connection:
        await key_limits.change(connection, key.id, changes, now=seeds.NOW)
        return (await keys.found(connection, key.id)).key.limits


async def in_flight(database: Database) -> list[int]:
    """By budget, in the order of their ids."""
    return [stands.reserved_tasks for _, stands in sorted((await spending.kept(database)).items())]


async def open_tasks(database: Database) -> int:
    return sum(not TaskState(row.state).ended for row in await seeds.rows_of(database, tasks))


async def test_one_more_than_the_limit_is_refused_until_one_has_ended(database: Database) -> None:
    key = await seeds.a_key(database)
    await limit(database, key, max_in_flight=2)
    first, second, third = await spending.submit(database, *([spending.a_task(key)] for _ in range(3)))
    assert [one[0].in_flight_left for one in (first, second)] == [1, 0]
    assert isinstance(third, RateLimitedError)
    assert (third.limit, third.allowed, third.left, third.of_key) == ("max_in_flight", 2, 0, True)
    assert third.retry_after_s
    assert str(third).startswith("this key's limit of 2 tasks in flight does not have room: 0 left, 1 submitted. Send")
    assert await open_tasks(database) == 2
    (claimed,) = await seeds.claim(database, first[0].id)
    await seeds.settle(database, seeds.success(claimed))
    again, refused = await spending.submit(database, [spending.a_task(key)], [spending.a_task(key)])
    assert (is_accepted(again), is_accepted(refused)) == (True, False)


async def test_a_list_that_never_fits_is_told_so(database: Database) -> None:
    key = await seeds.a_key(database)
    await limit(database, key, max_in_flight=2)
    (refused,) = await spending.submit(database, [spending.a_task(key) for _ in range(3)])
    assert isinstance(refused, RateLimitedError)
    assert (refused.retry_after_s, refused.left) == (None, 2)
    assert "3 submitted at once, which never fits" in str(refused)
    assert await in_flight(database) == [0]


async def test_a_repeat_of_what_is_in_flight_is_answered_where_the_limit_is_reached(database: Database) -> None:
    key = await seeds.a_key(database)
    await limit(database, key, max_in_flight=1)
    task = spending.a_task(key, request_id="request-1")
    await spending.submit(database, [task])
    (again,) = await spending.submit(database, [spending.a_task(key, request_id="request-1")])
    assert (again[0].id, again[0].duplicate, again[0].in_flight_left) == (task.id, True, None)


async def test_a_project_has_a_limit_beside_its_keys(database: Database) -> None:
    key, other = await seeds.a_key(database), await seeds.a_key(database)
    await spending.a_budget(database, key, limit_tasks=3, **spending.IN_FLIGHT)
    await limit(database, key, max_in_flight=2)
    outcomes = await spending.submit(database, *([spending.a_task(one)] for one in (key, other, key, other, key)))
    assert [is_accepted(one) for one in outcomes] == [True, True, True, False, False]
    assert not outcomes[3].of_key
    assert [one[0].in_flight_left for one in outcomes[:3]] == [1, None, 0]
    assert str(outcomes[3]).startswith("this project's limit of 3 tasks in flight")


async def test_what_money_refuses_is_not_in_flight(database: Database) -> None:
    key = await seeds.a_key(database)
    await limit(database, key, max_in_flight=5)
    await spending.a_budget(database, key, limit_nano=spending.NANO)
    accepted, refused = await spending.submit(database, [spending.a_task(key)], [spending.a_task(key)])
    assert is_accepted(accepted)
    assert isinstance(refused, BudgetExceededError)
    assert set(await in_flight(database)) == {1}


async def succeed(database: Database, claimed: Claimed) -> None:
    await seeds.settle(database, seeds.success(claimed))


async def fail(database: Database, claimed: Claimed) -> None:
    await seeds.settle(database, seeds.failure(claimed))


async def answer_twice(database: Database, claimed: Claimed) -> None:
    await seeds.settle(database, seeds.success(claimed), seeds.success(claimed))
    await seeds.settle(database, seeds.failure(claimed))


async def retry_and_fail(database: Database, claimed: Claimed) -> None:
    await seeds.settle(database, seeds.refusal(claimed))
    (again,) = await seeds.claim(database, claimed.id)
    await seeds.settle(database, seeds.failure(again))


async def answer_late(database: Database, claimed: Claimed) -> None:
    """Its worker was taken for dead, and the answer came while it was queued again."""
    await seeds.settle(database, seeds.doubt(claimed, bill=spending.POSSIBLE))
    await seeds.settle(database, seeds.success(claimed))


async def give_back_and_cancel(database: Database, claimed: Claimed) -> None:
    await seeds.settle(database, seeds.refusal(claimed))
    async with database.write() as connection:
        await cancels.cancel(connection, claimed.id, project_id=await owner(database, claimed.id), now=seeds.NOW)


async def give_up(database: Database, claimed: Claimed) -> None:
    await seeds.settle(database, seeds.refusal(claimed))
    async with database.write() as connection:
        project_id = await owner(database, claimed.id)
        await cancels.give_up(
            connection, claimed.id, project_id=project_id, code="no_balance", message="paused", now=seeds.NOW
        )


async def expire(database: Database, claimed: Claimed) -> None:
    await seeds.settle(database, seeds.refusal(claimed))
    row = await seeds.row(database, claimed.id)
    over = Settlement(
        task_id=claimed.id, fence=row.fence, attempt=row.attempt, held=TaskState.QUEUED,
        outcome=AttemptOutcome.ABANDONED, state=TaskState.EXPIRED, error_code="expired",
    )  # fmt: skip
    await seeds.settle(database, over)


async def owner(database: Database, task_id: UUID) -> UUID:
    project_id: UUID = (await seeds.row(database, task_id)).project_id
    return project_id


WAYS = (succeed, fail, answer_twice, retry_and_fail, answer_late, give_back_and_cancel, give_up, expire)


@pytest.mark.parametrize("way", WAYS)
async def test_every_way_out_lets_one_go(database: Database, way: Any) -> None:
    key = await seeds.a_key(database)
    await limit(database, key, max_in_flight=2)
    ends, stays = spending.a_task(key), spending.a_task(key)
    await spending.submit(database, [ends, stays])
    (claimed,) = await seeds.claim(database, ends.id)
    assert await in_flight(database) == [2]
    await way(database, claimed)
    assert TaskState((await seeds.row(database, ends.id)).state).ended
    assert await in_flight(database) == [1] == [await open_tasks(database)]


async def test_a_task_that_is_tried_again_stays_in_flight(database: Database) -> None:
    key = await seeds.a_key(database)
    await limit(database, key, max_in_flight=1)
    task = spending.a_task(key)
    await spending.submit(database, [task])
    (claimed,) = await seeds.claim(database, task.id)
    await seeds.settle(database, seeds.refusal(claimed))
    assert await in_flight(database) == [1]
    assert not is_accepted((await spending.submit(database, [spending.a_task(key)]))[0])


async def test_a_dead_workers_tasks_stay_in_flight_until_they_end(database: Database) -> None:
    key = await seeds.a_key(database)
    await limit(database, key, max_in_flight=1)
    task = spending.a_task(key)
    await spending.submit(database, [task])
    (claimed,) = await seeds.claim(database, task.id)
    await seeds.settle(database, seeds.doubt(claimed, bill=spending.POSSIBLE))
    assert await in_flight(database) == [1]
    (again,) = await seeds.claim(database, task.id)
    await seeds.settle(database, seeds.success(again))
    assert await in_flight(database) == [0]


async def test_a_limit_that_is_lowered_stops_new_tasks_and_no_open_one(database: Database) -> None:
    key = await seeds.a_key(database)
    await limit(database, key, max_in_flight=3)
    new = [spending.a_task(key) for _ in range(3)]
    await spending.submit(database, new)
    await limit(database, key, max_in_flight=1)
    (claimed,) = await seeds.claim(database, new[0].id)
    await seeds.settle(database, seeds.doubt(claimed, bill=spending.POSSIBLE))
    assert (await seeds.row(database, new[0].id)).state == TaskState.QUEUED, "it is bought again"
    (refused,) = await spending.submit(database, [spending.a_task(key)])
    assert isinstance(refused, RateLimitedError)
    assert refused.left == 0


async def test_64_submits_at_once_get_no_more_than_the_limit(postgres: Database) -> None:
    key = await seeds.a_key(postgres)
    await limit(postgres, key, max_in_flight=10)
    outcomes = await asyncio.gather(*(spending.submit(postgres, [spending.a_task(key)]) for _ in range(64)))
    accepted = [outcome for (outcome,) in outcomes if is_accepted(outcome)]
    assert (len(accepted), await open_tasks(postgres), await in_flight(postgres)) == (10, 10, [10])


async def test_limits_are_set_changed_and_lifted_each_by_itself(database: Database) -> None:
    key = await seeds.a_key(database)
    assert await limit(database, key, requests_per_minute=60, max_in_flight=5) == KeyLimits(
        requests_per_minute=60, max_in_flight=5
    )
    assert await limit(database, key, tokens_per_minute=1_000) == KeyLimits(
        requests_per_minute=60, tokens_per_minute=1_000, max_in_flight=5
    )
    await limit(database, key, requests_per_minute=None, max_in_flight=None)
    assert await limit(database, key, tokens_per_minute=None, max_in_flight=None) == NO_LIMITS
    assert await seeds.size(database, budgets) == 0


async def test_a_new_key_has_the_limits_it_was_made_with_and_no_other_key_has(database: Database) -> None:
    other = await seeds.a_key(database)
    limits = KeyLimits(requests_per_minute=1, tokens_per_minute=2, max_in_flight=3)
    made = replace(other, id="made", limits=limits)
    async with database.write() as connection:
        await keys.add(connection, made, master=seeds.MASTER, now=seeds.NOW)
        found = {one.key.id: one.key.limits for one in await keys.list_all(connection)}
    assert found == {"made": limits, other.id: NO_LIMITS}


async def test_a_key_of_nobody_gets_no_limit(database: Database) -> None:
    key = await seeds.a_key(database)
    with pytest.raises(NotFoundError, match="no key 'nobody'"):
        await limit(database, replace(key, id="nobody"), max_in_flight=1)


async def test_a_key_without_a_limit_pays_nothing_for_its_neighbours(database: Database) -> None:
    key, free = await seeds.a_key(database), await seeds.a_key(database)
    await limit(database, key, max_in_flight=1)
    asked: list[str] = []

    def note(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if "budget" in statement:
            asked.append(statement)

    sa.event.listen(sa.Engine, "before_cursor_execute", note)
    try:
        await spending.submit(database, [spending.a_task(free)], [spending.a_task(free)])
    finally:
        sa.event.remove(sa.Engine, "before_cursor_execute", note)
    assert len(asked) == 1, "the INSERT, which looks"


async def test_a_count_that_is_wrong_is_found(database: Database) -> None:
    key = await seeds.a_key(database)
    await limit(database, key, max_in_flight=5)
    await spending.submit(database, [spending.a_task(key)])
    async with database.write() as connection:
        await connection.exec_driver_sql("UPDATE budget_periods SET reserved_tasks = 4")
    difference = await ledgers.the_difference(database, "budgets")
    assert (dict(difference.found), dict(difference.expected)) == ({"reserved_tasks": 4}, {"reserved_tasks": 1})
