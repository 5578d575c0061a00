"""What the engine's tests stand on: a store with a key and prices, an upstream, and engines on the test's own loop."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any, cast
from uuid import UUID

import orjson
import sqlalchemy as sa

from tests.store import seeds
from tollgate.broker.bus import ENDED, MemoryBus
from tollgate.broker.publisher import Publisher
from tollgate.domain.addresses import STRICT
from tollgate.domain.keys import MasterKey
from tollgate.domain.lanes import LANES
from tollgate.domain.prices import Price, PriceTable, Tier
from tollgate.domain.retries import RetryPolicy
from tollgate.domain.routing import Catalog, Credential, UpstreamSpec
from tollgate.domain.settling import Counts
from tollgate.domain.states import TaskState
from tollgate.domain.tasks import Key, NewTask
from tollgate.simulator import Simulator, SimulatorSettings
from tollgate.store import leases, price_list
from tollgate.store import tasks as task_store
from tollgate.store.database import Database
from tollgate.store.schema import USAGE_COUNTS, attempts, pauses, usage_hourly, workers
from tollgate.store.tasks import Task
from worker.beat import Beat
from worker.billing import Rules
from worker.engine import Engine
from worker.lease import Timing
from worker.upstreams import registry
from worker.webhooks.courier import Courier
from worker.webhooks.post import Post

LIMIT_S = 20.0
"""Nothing that works takes as long."""
INTERACTIVE = "cloud.interactive"
BULK = "cloud.bulk"
ROUTE = seeds.ROUTE
KEYS = {"KEY_A": "alpha.secret", "KEY_B": "beta.secret"}
HASTY = RetryPolicy(base_s=0.01, cap_s=0.02, slow_base_s=0.01, slow_cap_s=0.02)
BRISK = Timing(renew_s=0.05, tick_s=0.02)
EMBEDDING = Price(
    upstream="zhipu",
    model="embedding-3",
    valid_from=datetime(2024, 1, 1, tzinfo=UTC),
    currency="CNY",
    tiers=(Tier(name="all", input_nano=500_000_000, output_nano=500_000_000),),
)
PRICES = PriceTable([seeds.PRICE, EMBEDDING])


def beat_of(database: Database, bus: MemoryBus, publisher: object, *, rules: Rules | None = None) -> Beat:
    """A beat that is not running yet, with `publisher` for a Publisher."""
    masters = (MasterKey(value=b"a-master-key-of-the-workers-tests-0123456789"),)
    return Beat(
        database=database,
        bus=bus,
        publisher=cast(Publisher, publisher),
        rules=rules or Rules(prices=PRICES),
        courier=Courier(database, masters=masters, post=Post(STRICT), currency="CNY"),
    )


async def until(condition: Callable[[], Awaitable[Any]], *, limit_s: float = LIMIT_S) -> Any:
    """What `condition` gives once it is true. For what gives no signal: rows, and other processes."""
    began = time.monotonic()
    while not (value := await condition()):
        waited_s = time.monotonic() - began
        if waited_s > limit_s:
            raise TimeoutError(f"not so within {limit_s} s: {condition!r}")
        # Asking takes work from what is waited for: a fifth longer at the most, and the less often the longer it takes.
        await asyncio.sleep(min(max(0.01, waited_s / 5), 0.1))
    return value


def zhipu(base_url: str, *, keys: Iterable[str] = ("KEY_A",), **changes: Any) -> UpstreamSpec:
    """An upstream at `base_url` that gives up soon."""
    plain = UpstreamSpec(
        name="zhipu",
        kind="zhipu",
        base_url=base_url,
        credentials=tuple(Credential(variables=(name,)) for name in keys),
        connect_timeout_s=2.0,
        first_byte_timeout_s=5.0,
        total_timeout_s=10.0,
    )
    return replace(plain, **changes)


@dataclass(kw_only=True)
class World:
    """One store, its engines, and what ended in it."""

    database: Database
    database_url: str
    stack: AsyncExitStack
    key: Key
    bus: MemoryBus = field(default_factory=MemoryBus)
    ended_ids: set[UUID] = field(default_factory=set)
    news: asyncio.Event = field(default_factory=asyncio.Event)

    async def simulator(self, **settings: Any) -> Simulator:
        made = SimulatorSettings(**settings)
        return await self.stack.enter_async_context(Simulator(made, prices=PRICES))

    async def engine(self, *specs: UpstreamSpec, drain_timeout_s: float = 0.0, **changes: Any) -> Engine:
        """A running engine that calls `specs`; stopped with the test."""
        catalog = Catalog(upstreams={spec.name: spec for spec in specs}, models={})
        options: dict[str, Any] = {
            "database": self.database,
            "database_url": self.database_url,
            "bus": self.bus,
            "upstreams": registry.connect(catalog, environment=KEYS),
            "rules": Rules(prices=PRICES, policy=HASTY),
            "name": "test",
            "lanes": LANES,
            "max_in_flight": 1000,
            "timing": BRISK,
        }
        engine = Engine(**{**options, **changes})
        await engine.start()
        self.stack.push_async_callback(engine.stop, drain_timeout_s=drain_timeout_s)
        return engine

    async def queue(self, *prompts: str, **changes: Any) -> list[UUID]:
        """Ids of new tasks with these prompts, as a gateway commits them: announced, for an hour."""
        now = datetime.now(UTC)
        new = [self.task_of(prompt, now=now, **changes) for prompt in prompts]
        await seeds.submit(self.database, new)
        return [task.id for task in new]

    def task_of(self, prompt: str, *, now: datetime, **changes: Any) -> NewTask:
        body = {"model": "glm-4.7", "messages": [{"role": "user", "content": prompt}]}
        times = {
            "created_at": now,
            "not_before": now,
            "announced_at": now,
            "deadline": now + timedelta(hours=1),
            "retry_until": now + timedelta(hours=1),
        }
        return seeds.a_task(self.key, **{**times, "body": orjson.dumps(body).decode(), **changes})

    async def run(self, engine: Engine, *prompts: str, **changes: Any) -> list[Task]:
        """Queue, tell `engine`, and wait until all have ended."""
        ids = await self.queue(*prompts, **changes)
        engine.offer(changes.get("lane", INTERACTIVE), {changes.get("route", ROUTE): ids})
        return await self.ended(ids)

    async def ended(self, ids: Sequence[UUID], *, limit_s: float = LIMIT_S) -> list[Task]:
        """Wait for the notices that `ids` ended; they as they stand then."""
        async with asyncio.timeout(limit_s):
            while not self.ended_ids.issuperset(ids):
                await self.news.wait()
                self.news.clear()
        return [await self.task(i) for i in ids]

    async def task(self, task_id: UUID) -> Task:
        async with self.database.read() as connection:
            found = await task_store.by_ids(connection, [task_id], project_id=self.key.project_id)
        return found[task_id]

    async def state(self, task_id: UUID) -> TaskState:
        return (await self.task(task_id)).state

    async def until_state(self, task_id: UUID, state: TaskState) -> Task:
        async def is_so() -> Task | None:
            task = await self.task(task_id)
            return task if task.state is state else None

        found: Task = await until(is_so)
        return found

    async def paused(self) -> dict[str, Any]:
        """Credential -> its row."""
        return {row.credential: row for row in await seeds.rows_of(self.database, pauses)}

    async def live_workers(self) -> list[leases.WorkerRow]:
        async with self.database.read() as connection:
            return await leases.alive(connection)

    async def bury(self, worker_id: UUID) -> None:
        async with self.database.write() as connection:
            await connection.execute(sa.update(workers).where(workers.c.id == worker_id).values(dead=True))

    async def accounts(self) -> Counts:
        """The roll-up's sums."""
        found = await seeds.rows_of(self.database, usage_hourly)
        return Counts(**{name: sum(getattr(row, name) for row in found) for name in USAGE_COUNTS})

    async def cost_nano(self) -> int:
        """The attempts' sum."""
        return sum(row.cost_nano or 0 for row in await seeds.rows_of(self.database, attempts))


async def world_of(database: Database, database_url: str, stack: AsyncExitStack) -> World:
    key = await seeds.a_key(database)
    async with database.write() as connection:
        await price_list.publish(connection, [seeds.PRICE, EMBEDDING], now=seeds.NOW)
    world = World(database=database, database_url=database_url, stack=stack, key=key)

    def note(ids: list[UUID]) -> None:
        world.ended_ids.update(ids)
        world.news.set()

    world.bus.subscribe(ENDED, note)
    return world
