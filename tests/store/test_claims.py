from __future__ import annotations

import asyncio
from typing import Any
from uuid import UUID

import pytest
import sqlalchemy as sa

from tests.store import seeds
from tollgate.domain.ids import new_id
from tollgate.domain.states import OnUncertain
from tollgate.store import claims, leases
from tollgate.store.database import Database
from tollgate.store.schema import attempts, tasks


async def test_a_claim_has_all_that_running_needs(database: Database) -> None:
    key = await seeds.a_key(database)
    given = seeds.a_task(key, max_tokens=7, on_uncertain=OnUncertain.FAIL, body='{"n":1}')
    await seeds.submit(database, [given])
    (task,) = await seeds.claim(database, given.id)
    assert task == claims.Claimed(
        id=given.id, fence=1, attempt=1, tries=0, endpoint="chat", model=given.model, route=given.route,
        lane=given.lane, body='{"n":1}', deadline=given.deadline, retry_until=given.retry_until,
        on_uncertain=OnUncertain.FAIL, prompt_tokens_estimate=10, max_tokens=7, assumed_max_tokens=4096,
        attempt_started_at=seeds.NOW, known=task.known,
    )  # fmt: skip


async def test_a_claimed_task_runs_under_its_worker(database: Database) -> None:
    key = await seeds.a_key(database)
    worker_id = new_id()
    ids = await seeds.queued(database, key)
    await seeds.claim(database, *ids, worker_id=worker_id, now=seeds.later(1))
    row = await seeds.row(database, ids[0])
    assert (row.state, row.worker_id, row.fence, row.started_at) == ("running", worker_id, 1, seeds.later(1))


async def test_claims_come_in_the_order_of_their_ids_and_once_each(database: Database) -> None:
    key = await seeds.a_key(database)
    ids = await seeds.queued(database, key, count=20)
    claimed = await seeds.claim(database, *ids[::-1], *ids[:3])
    assert [task.id for task in claimed] == ids


async def test_nothing_to_claim_is_no_error(database: Database) -> None:
    assert await seeds.claim(database) == []
    assert await seeds.claim(database, new_id()) == []


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"not_before": seeds.later(1)}, id="not due"),
        pytest.param({"not_before": seeds.later(-9), "deadline": seeds.NOW}, id="past its deadline"),
    ],
)
async def test_what_may_not_run_now_is_not_claimed(database: Database, changes: dict[str, Any]) -> None:
    key = await seeds.a_key(database)
    ids = await seeds.queued(database, key, **changes)
    assert await seeds.claim(database, *ids) == []


@pytest.mark.parametrize("buried", [True, False])
async def test_who_is_not_registered_or_was_declared_dead_claims_nothing(database: Database, buried: bool) -> None:
    ids = await seeds.queued(database, await seeds.a_key(database))
    worker_id = new_id()
    async with database.write() as connection:
        if buried:
            await leases.register(connection, worker_id, name="w", lanes=("cloud",), now=seeds.NOW)
            await leases.bury(connection, worker_id)
        assert await claims.claim(connection, ids, worker_id=worker_id, now=seeds.NOW) == []
    assert (await seeds.row(database, ids[0])).state == "queued"
    assert await seeds.size(database, attempts) == 0


async def test_a_worker_cannot_be_declared_dead_while_it_claims(postgres: Database) -> None:
    ids = await seeds.queued(postgres, await seeds.a_key(postgres))
    worker_id = await seeds.a_worker(postgres)
    async with asyncio.timeout(10):
        async with postgres.write() as claiming:
            assert await claims.claim(claiming, ids, worker_id=worker_id, now=seeds.NOW)
            burying = asyncio.create_task(_bury(postgres, worker_id))
            await seeds.until_waiting(postgres)
            assert not burying.done()
        assert await burying


async def test_a_claim_that_waits_for_its_workers_funeral_takes_nothing(postgres: Database) -> None:
    ids = await seeds.queued(postgres, await seeds.a_key(postgres))
    worker_id = await seeds.a_worker(postgres)
    async with asyncio.timeout(10):
        async with postgres.write() as burying:
            await leases.bury(burying, worker_id)
            claiming = asyncio.create_task(seeds.claim(postgres, *ids, worker_id=worker_id))
            await seeds.until_waiting(postgres)
        assert await claiming == []
    assert (await seeds.row(postgres, ids[0])).state == "queued"


async def _bury(database: Database, worker_id: UUID) -> bool:
    async with database.write() as connection:
        return await leases.bury(connection, worker_id)


async def test_a_running_task_is_not_claimed(database: Database) -> None:
    task = await seeds.running(database, await seeds.a_key(database))
    assert await seeds.claim(database, task.id) == []


async def test_an_ended_task_is_not_claimed(database: Database) -> None:
    task = await seeds.running(database, await seeds.a_key(database))
    await seeds.settle(database, seeds.success(task))
    assert await seeds.claim(database, task.id) == []


async def test_an_open_attempt_is_continued(database: Database) -> None:
    task = await seeds.running(database, await seeds.a_key(database))
    await seeds.settle(database, seeds.refusal(task))
    worker_id = new_id()
    (again,) = await seeds.claim(database, task.id, worker_id=worker_id, now=seeds.later(1800))
    assert (again.attempt, again.fence, again.tries) == (1, 2, 1)
    assert again.attempt_started_at == seeds.NOW
    assert again.upstream_request_id == task.upstream_request_id
    (attempt,) = await seeds.rows_of(database, attempts)
    assert (attempt.number, attempt.tries, attempt.fence, attempt.worker_id) == (1, 2, 2, worker_id)
    assert attempt.started_at == seeds.NOW


async def test_a_closed_attempt_is_followed_by_the_next_number(database: Database) -> None:
    task = await seeds.running(database, await seeds.a_key(database))
    await seeds.settle(database, seeds.doubt(task))
    (again,) = await seeds.claim(database, task.id, now=seeds.later(5))
    assert (again.attempt, again.attempt_started_at) == (2, seeds.later(5))
    assert again.upstream_request_id != task.upstream_request_id
    assert [(a.number, a.tries) for a in await seeds.rows_of(database, attempts)] == [(1, 1), (2, 1)]


async def test_the_first_start_of_a_task_stays(database: Database) -> None:
    task = await seeds.running(database, await seeds.a_key(database))
    await seeds.settle(database, seeds.refusal(task))
    await seeds.claim(database, task.id, now=seeds.later(60))
    assert (await seeds.row(database, task.id)).started_at == seeds.NOW


async def test_an_attempt_knows_the_upstream_and_the_model_there(database: Database) -> None:
    task = await seeds.running(database, await seeds.a_key(database), route="vllm/zai-org/glm-4-9b")
    (attempt,) = await seeds.rows_of(database, attempts)
    assert (attempt.upstream, attempt.upstream_model) == ("vllm", "zai-org/glm-4-9b")
    assert attempt.request_id == f"{task.id.hex}-1"
    assert attempt.outcome == "open"


async def test_the_id_of_a_polled_call_goes_to_who_takes_it_over(database: Database) -> None:
    task = await seeds.running(database, await seeds.a_key(database))
    async with database.write() as connection:
        await connection.execute(sa.update(attempts).values(upstream_id="upstream-1"))
    await seeds.settle(database, seeds.refusal(task))
    (again,) = await seeds.claim(database, task.id)
    assert again.upstream_id == "upstream-1"


async def test_two_workers_share_overlapping_hints_without_waiting(postgres: Database) -> None:
    key = await seeds.a_key(postgres)
    ids = await seeds.queued(postgres, key, count=30)
    workers = [await seeds.a_worker(postgres) for _ in range(2)]
    async with asyncio.timeout(10), postgres.write() as one, postgres.write() as other:
        # Neither transaction has committed: the second must step over what the first has locked.
        first = await claims.claim(one, ids[:20], worker_id=workers[0], now=seeds.NOW)
        second = await claims.claim(other, ids[10:][::-1], worker_id=workers[1], now=seeds.NOW)
    assert [task.id for task in first] == ids[:20]
    assert [task.id for task in second] == ids[20:]


async def test_many_workers_with_the_same_hints_claim_each_task_once(database: Database) -> None:
    key = await seeds.a_key(database)
    ids = await seeds.queued(database, key, count=200)
    shares = await asyncio.wait_for(
        asyncio.gather(*(seeds.claim(database, *(ids if n % 2 else ids[::-1])) for n in range(8))), timeout=30
    )
    assert sorted(task.id for share in shares for task in share) == ids
    async with database.read() as connection:
        fences = (await connection.execute(sa.select(tasks.c.fence).distinct())).scalars().all()
    assert fences == [1]
