"""What the store's tests start from: projects, keys, tasks, leases and settlements with sensible defaults."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from tollgate.domain.ids import new_id
from tollgate.domain.prices import Price, Tier
from tollgate.domain.settling import Bill, Resolution, Settlement
from tollgate.domain.states import AttemptOutcome, OnUncertain, Role, TaskState
from tollgate.domain.tasks import Key, NewTask
from tollgate.store import claims, intake, keys, leases, price_list, settlements
from tollgate.store.claims import Claimed
from tollgate.store.database import Database
from tollgate.store.schema import tasks, workers

NOW = datetime(2026, 3, 1, 12, 30, tzinfo=UTC)
MASTER = "0123456789abcdef"
ROUTE = "zhipu/glm-4.7"
LANE = "cloud.interactive"
PRICE = Price(
    upstream="zhipu",
    model="glm-4.7",
    valid_from=datetime(2024, 1, 1, tzinfo=UTC),
    currency="CNY",
    tiers=(Tier(name="all", input_nano=2_000_000_000, output_nano=8_000_000_000),),
)
BILL = Bill(
    prompt_tokens=100, cached_tokens=20, completion_tokens=50, price_id=PRICE.id, price_tier="all", cost_nano=600_000
)


def later(seconds: float) -> datetime:
    return NOW + timedelta(seconds=seconds)


async def a_key(database: Database, *, project: str = "acme") -> Key:
    """A key of `project`, which is made if need be. The price list has PRICE after."""
    async with database.write() as connection:
        await price_list.publish(connection, [PRICE], now=NOW)
        owner = await keys.add_project(connection, project, now=NOW)
        key = Key(id=new_id().hex, project_id=owner.id, project=project, name="test", role=Role.USER)
        await keys.add(connection, key, master=MASTER, now=NOW)
    return key


def a_task(key: Key, **changes: Any) -> NewTask:
    """A task of `key` that is due at NOW and was not announced yet."""
    plain = NewTask(
        id=new_id(),
        project_id=key.project_id,
        key_id=key.id,
        custom_id=None,
        request_id=None,
        digest="0" * 64,
        label=None,
        endpoint="chat",
        model="glm-4.7",
        route=ROUTE,
        lane=LANE,
        mode="direct",
        streamed=False,
        feed=key.project_id,
        not_before=NOW,
        deadline=later(3600),
        retry_until=later(3600),
        on_uncertain=OnUncertain.RETRY,
        prompt_tokens_estimate=10,
        max_tokens=None,
        created_at=NOW,
        announced_at=None,
        callback_url=None,
        assumed_max_tokens=4096,
        body='{"model":"glm-4.7"}',
        metadata=None,
    )
    return replace(plain, **changes)


async def submit(database: Database, *submissions: Sequence[NewTask]) -> list[intake.Outcome]:
    """The outcomes of `submissions`, all in one statement."""
    async with database.write() as connection:
        return await intake.submit(connection, [tuple(submission) for submission in submissions])


async def queued(database: Database, key: Key, *, count: int = 1, **changes: Any) -> list[UUID]:
    """The ids of `count` new tasks."""
    new = [a_task(key, **changes) for _ in range(count)]
    await submit(database, new)
    return [task.id for task in new]


async def a_worker(database: Database, worker_id: UUID | None = None) -> UUID:
    """The id of a registered worker; a given one may be registered before."""
    given = worker_id or new_id()
    async with database.write() as connection:
        if (await connection.execute(sa.select(workers.c.id).where(workers.c.id == given))).first() is None:
            await leases.register(connection, given, name="w", lanes=("cloud",), now=NOW)
    return given


async def claim(database: Database, *ids: UUID, worker_id: UUID | None = None, now: datetime = NOW) -> list[Claimed]:
    holder = await a_worker(database, worker_id)
    async with database.write_once() as connection:
        return await claims.claim(connection, ids, worker_id=holder, now=now, polled={"zhipu": None})


async def running(database: Database, key: Key, **changes: Any) -> Claimed:
    """A new task under a new worker's lease."""
    ids = await queued(database, key, **changes)
    return (await claim(database, *ids))[0]


async def settle(database: Database, *given: Settlement, now: datetime = NOW, shard: int = 0) -> list[Resolution]:
    async with database.write() as connection:
        return await settlements.settle(connection, given, now=now, shard=shard)


def success(task: Claimed, **changes: Any) -> Settlement:
    plain = Settlement(
        task_id=task.id,
        fence=task.fence,
        attempt=task.attempt,
        outcome=AttemptOutcome.SUCCEEDED,
        state=TaskState.SUCCEEDED,
        bill=BILL,
        http_status=200,
        result='{"choices":[]}',
    )
    return replace(plain, **changes)


def failure(task: Claimed, **changes: Any) -> Settlement:
    """Refused for good."""
    return success(
        task,
        **{
            "outcome": AttemptOutcome.FAILED,
            "state": TaskState.FAILED,
            "bill": Bill(),
            "http_status": 400,
            "error_code": "1210",
            "error_message": "bad call",
            "result": None,
            **changes,
        },
    )


def refusal(task: Claimed, **changes: Any) -> Settlement:
    """Refused for now: the same attempt is repeated."""
    again: dict[str, Any] = {"outcome": AttemptOutcome.OPEN, "state": TaskState.QUEUED, "http_status": 429}
    return failure(task, **{**again, "error_code": "1302", "error_message": "too fast", "not_before": NOW, **changes})


def doubt(task: Claimed, **changes: Any) -> Settlement:
    """Sent, perhaps billed, no answer: a new attempt follows."""
    lost: dict[str, Any] = {"outcome": AttemptOutcome.UNCERTAIN, "state": TaskState.QUEUED, "http_status": None}
    bill = Bill(possible_cost_nano=700_000)
    return failure(task, **{**lost, "error_code": "no_answer", "bill": bill, "not_before": NOW, **changes})


async def row(database: Database, task_id: UUID) -> Any:
    """The row of `tasks`."""
    async with database.read() as connection:
        return (await connection.execute(sa.select(tasks).where(tasks.c.id == task_id))).one()


async def rows_of(database: Database, table: sa.Table) -> list[Any]:
    async with database.read() as connection:
        return list((await connection.execute(sa.select(table))).all())


async def size(database: Database, table: sa.Table) -> int:
    async with database.read() as connection:
        return (await connection.execute(sa.select(sa.func.count()).select_from(table))).scalar_one()


async def until_waiting(database: Database, *, count: int = 1) -> None:
    """Return when `count` transactions wait for a lock in this PostgreSQL database."""
    # Of this database alone: other sessions may share the server.
    question = (
        "SELECT count(*) FROM pg_locks JOIN pg_stat_activity USING (pid)"
        " WHERE NOT granted AND datname = current_database()"
    )
    waiting = 0
    async with asyncio.timeout(60):
        while waiting < count:
            await asyncio.sleep(0.005)
            # Each time a new transaction: one sees the same activity to its end.
            async with database.read() as connection:
                waiting = (await connection.exec_driver_sql(question)).scalar_one()
