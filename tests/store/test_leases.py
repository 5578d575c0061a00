from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

import pytest
import sqlalchemy as sa

from tests.store import seeds
from tollgate.domain.ids import new_id
from tollgate.domain.states import OnUncertain
from tollgate.store import cancels, leases
from tollgate.store.database import Database
from tollgate.store.leases import Orphan, WorkerRow
from tollgate.store.schema import attempts, workers


async def registered(database: Database) -> UUID:
    worker_id = new_id()
    async with database.write() as connection:
        await leases.register(connection, worker_id, name="host:1", lanes=("cloud.bulk", "local.bulk"), now=seeds.NOW)
    return worker_id


async def renew(database: Database, worker_id: UUID) -> bool:
    async with database.write() as connection:
        return await leases.renew(
            connection, worker_id, load={"zhipu/glm-4.7": leases.RouteLoad(3, 61)}, now=seeds.later(5)
        )


async def bury(database: Database, worker_id: UUID, *, heartbeat: int | None = None) -> bool:
    async with database.write() as connection:
        return await leases.bury(connection, worker_id, heartbeat=heartbeat)


async def alive(database: Database) -> list[WorkerRow]:
    async with database.read() as connection:
        return await leases.alive(connection)


async def orphans(database: Database, *, limit: int = 100, without: Sequence[UUID] = ()) -> list[Orphan]:
    async with database.read() as connection:
        return await leases.orphans(connection, limit=limit, without=without)


async def forget(database: Database, *, seen_before: datetime) -> int:
    async with database.write() as connection:
        return await leases.forget_dead(connection, seen_before=seen_before)


async def test_a_new_worker_is_alive(database: Database) -> None:
    worker_id = await registered(database)
    assert await alive(database) == [
        WorkerRow(
            id=worker_id, name="host:1", lanes=("cloud.bulk", "local.bulk"), load={}, heartbeat=1, dead=False,
            started_at=seeds.NOW, seen_at=seeds.NOW,
        )
    ]  # fmt: skip


async def test_a_heartbeat_counts_and_tells_the_load(database: Database) -> None:
    worker_id = await registered(database)
    assert await renew(database, worker_id)
    (worker,) = await alive(database)
    assert (worker.heartbeat, worker.seen_at, worker.load) == (
        2,
        seeds.later(5),
        {"zhipu/glm-4.7": leases.RouteLoad(3, 61)},
    )


async def test_a_buried_worker_cannot_renew(database: Database) -> None:
    worker_id = await registered(database)
    assert await bury(database, worker_id)
    assert not await renew(database, worker_id)
    assert await alive(database) == []


async def test_an_unknown_worker_cannot_renew(database: Database) -> None:
    assert not await renew(database, new_id())


async def test_a_worker_is_buried_once(database: Database) -> None:
    worker_id = await registered(database)
    assert [await bury(database, worker_id), await bury(database, worker_id)] == [True, False]


@pytest.mark.parametrize(("heartbeat", "buried"), [(1, False), (2, True)])
async def test_a_worker_that_has_breathed_since_is_not_buried(database: Database, heartbeat: int, buried: bool) -> None:
    worker_id = await registered(database)
    await renew(database, worker_id)
    assert await bury(database, worker_id, heartbeat=heartbeat) is buried


async def test_orphans_are_what_dead_workers_were_running(database: Database) -> None:
    key = await seeds.a_key(database)
    dead, living = await registered(database), await registered(database)
    ids = await seeds.queued(database, key, count=3, max_tokens=9, on_uncertain=OnUncertain.FAIL)
    await seeds.claim(database, ids[1], ids[0], worker_id=dead)
    await seeds.claim(database, ids[2], worker_id=living)
    async with database.write() as connection:
        of_second = attempts.c.task_id == ids[1]
        await connection.execute(sa.update(attempts).where(of_second).values(upstream_id="u-1", unanswered=2))
    assert await orphans(database) == []
    await bury(database, dead)
    found = await orphans(database)
    assert [(o.id, o.upstream_id, o.unanswered) for o in found] == [(ids[0], None, 0), (ids[1], "u-1", 2)]
    assert found[0] == Orphan(
        id=ids[0], fence=1, attempt=1, tries=0, route=seeds.ROUTE, mode="direct", upstream_id=None, unanswered=0,
        attempt_started_at=seeds.NOW,
        retry_until=seeds.later(3600), deadline=seeds.later(3600), on_uncertain=OnUncertain.FAIL,
        prompt_tokens_estimate=10, max_tokens=9, assumed_max_tokens=4096,
    )  # fmt: skip
    assert await orphans(database, limit=1) == found[:1]
    assert await orphans(database, without=[ids[0]]) == found[1:]


async def test_dead_workers_are_forgotten_when_they_were_long_not_seen(database: Database) -> None:
    dead, living = await registered(database), await registered(database)
    await bury(database, dead)
    assert await forget(database, seen_before=seeds.NOW) == 0
    assert await forget(database, seen_before=seeds.later(1)) == 1
    assert [row.id for row in await seeds.rows_of(database, workers)] == [living]


async def test_a_dead_worker_that_holds_a_task_is_not_forgotten(database: Database) -> None:
    worker_id = await registered(database)
    (id_,) = await seeds.queued(database, await seeds.a_key(database))
    (claimed,) = await seeds.claim(database, id_, worker_id=worker_id)
    await bury(database, worker_id)
    assert await forget(database, seen_before=seeds.later(1)) == 0
    await seeds.settle(database, seeds.success(claimed))
    assert await forget(database, seen_before=seeds.later(1)) == 1


async def test_a_worker_learns_which_of_its_tasks_are_to_be_cancelled(database: Database) -> None:
    key = await seeds.a_key(database)
    worker_id = new_id()
    ids = await seeds.queued(database, key, count=2)
    await seeds.claim(database, *ids, worker_id=worker_id)
    other = await seeds.running(database, key)
    async with database.write() as connection:
        for id_ in (ids[1], other.id):
            await cancels.cancel(connection, id_, project_id=key.project_id, now=seeds.NOW)
        assert await leases.cancelled_of(connection, worker_id) == [ids[1]]
