"""A world with batches that are bought by the upstream's own: their rows, who buys them, and who ends them."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, cast
from uuid import UUID

import orjson
import sqlalchemy as sa

from tests.store import ledgers, seeds
from tests.worker.world import BULK, HASTY, KEYS, PRICES, World, until, zhipu
from tollgate.broker.publisher import Publisher
from tollgate.domain.batches import Batch, NewBatch, Via
from tollgate.domain.ids import new_id
from tollgate.domain.routing import Catalog, UpstreamSpec
from tollgate.domain.states import Priority
from tollgate.domain.tasks import NewTask
from tollgate.simulator import Simulator
from tollgate.simulator.batch_settings import Batches as Behaviour
from tollgate.store import batch_intake, batches, upstream_batches
from tollgate.store.batch_intake import Step
from tollgate.store.schema import attempts, budget_periods, budgets, task_results, tasks
from tollgate.store.schema import batches as batch_rows
from tollgate.store.upstream_batches import Account, Bought
from worker.announcer import Announcer
from worker.batches import Batches
from worker.billing import Rules
from worker.engine import Engine
from worker.upstream_batches import buying
from worker.upstream_batches.buyer import Limits, UpstreamBatches
from worker.upstream_batches.cloud import Cloud
from worker.upstream_batches.course import Pace

PACE = Pace(poll_s=0.05, back_off_s=0.02, back_off_most_s=0.1, unseen_s=0.2, look_s=0.02)


@dataclass(kw_only=True)
class Offers:
    """Hands what is announced to an engine, as the broker would."""

    engine: Engine

    def announce(self, lane: str, hints: dict[str, list[UUID]]) -> None:
        self.engine.offer(lane, hints)


@dataclass(kw_only=True)
class BatchWorld:
    """Batches of one project. Lines run on `engine` where they run by themselves."""

    world: World
    simulator: Simulator
    spec: UpstreamSpec
    engine: Engine
    stack: AsyncExitStack
    buyers: list[UpstreamBatches] = field(default_factory=list)

    @classmethod
    async def begin(cls, world: World, *, keys: Sequence[str] = ("KEY_A",), **behaviour: Any) -> BatchWorld:
        settings = behaviour.pop("settings", {})
        simulator = await world.simulator(batches=Behaviour(**behaviour), **settings)
        spec = zhipu(simulator.base_url, keys=keys)
        engine = await world.engine(spec)
        return cls(world=world, simulator=simulator, spec=spec, engine=engine, stack=world.stack)

    async def batch(
        self,
        *prompts: str,
        window_s: int = 3600,
        max_cost_nano: int | None = None,
        body: dict[str, Any] | None = None,
        **line: Any,
    ) -> UUID:
        """A batch via upstream_batch, all of whose lines are taken in."""
        now, batch_id = datetime.now(UTC), new_id()
        expires_at = now + timedelta(seconds=window_s)
        await self._add(batch_id, len(prompts), window_s=window_s, max_cost_nano=max_cost_nano, now=now)
        lines = [
            self._line(prompt, place + 1, batch_id, expires_at=expires_at, now=now, body=body or {}, **line)
            for place, prompt in enumerate(prompts)
        ]
        step = Step(
            lines=lines, invalid=[], before_bytes=0, after_bytes=len(prompts), after_lines=len(prompts), last=True
        )
        async with self.world.database.write() as connection:
            assert await batch_intake.take_in(connection, batch_id, step, now=now)
        return batch_id

    async def _add(
        self, batch_id: UUID, count: int, *, window_s: int, max_cost_nano: int | None, now: datetime
    ) -> None:
        key = self.world.key
        new = NewBatch(
            id=batch_id,
            project_id=key.project_id,
            key_id=key.id,
            request_id=None,
            digest="0" * 64,
            endpoint="/v4/chat/completions",
            name=None,
            input_file_id=new_id(),
            input_bytes=count,
            total=count,
            delete_input=False,
            via=Via.UPSTREAM_BATCH,
            priority=Priority.BULK,
            strict=False,
            defaults=None,
            max_cost_nano=max_cost_nano,
            metadata=None,
            callback_url=None,
            window_s=window_s,
            created_at=now,
            expires_at=now + timedelta(seconds=window_s),
        )
        async with self.world.database.write() as connection:
            await batches.add(connection, new)

    def _line(
        self, prompt: str, number: int, batch_id: UUID, *, expires_at: datetime, now: datetime, **changes: Any
    ) -> NewTask:
        extra = changes.pop("body")
        body = {"model": "glm-4.7", "messages": [{"role": "user", "content": prompt}], **extra}
        told = {
            "body": orjson.dumps(body).decode(),
            "batch_id": batch_id,
            "line": number,
            "custom_id": f"line-{number}",
            "feed": batch_id,
            "lane": BULK,
            "deadline": expires_at,
            "not_before": expires_at,
            "retry_until": expires_at,
            "announced_at": None,
        }
        return self.world.task_of(prompt, now=now, **{**told, **changes})

    def buyer(
        self,
        *,
        engine: Engine | None = None,
        clouds: Mapping[Account, Cloud] | None = None,
        pace: Pace = PACE,
        start: bool = True,
        **limits: int,
    ) -> UpstreamBatches:
        """Stopped with the test."""
        catalog = Catalog(upstreams={"zhipu": self.spec}, models={})
        made = buying.make(
            engine or self.engine,
            clouds or buying.clouds_of(catalog, environment=KEYS),
            database=self.world.database,
            bus=self.world.bus,
            rules=Rules(prices=PRICES, policy=HASTY),
            pace=pace,
            limits=Limits(**{"open_max": 8, **limits}),
        )
        if start:
            made.start()
        self.stack.push_async_callback(made.stop)
        return made

    async def ended(self, batch_id: UUID, *, limit_s: float = 40.0) -> Batch:
        """The batch once it has ended, with what is due announced and ended meanwhile, as the beat does."""
        rounds = Batches(self.world.database)
        announcer = self.announcer()

        async def is_over() -> Batch | None:
            await announcer.announce()
            await rounds.round()
            batch = await self.stands(batch_id)
            return batch if batch.state.ended else None

        try:
            found: Batch = await until(is_over, limit_s=limit_s)
        except TimeoutError:
            raise AssertionError(await self._told(batch_id)) from None
        return found

    async def _told(self, batch_id: UUID) -> str:
        """How a batch stands that does not end."""
        names = ("line", "state", "attempt", "fence", "not_before", "announced_at", "worker_id", "upstream_batch_id")
        rows = [row for row in await seeds.rows_of(self.world.database, tasks) if row.ended_at is None]
        lines = [", ".join(f"{name} {getattr(row, name)}" for name in names) for row in rows]
        bought = [f"{row.state}: {row.error}" for row in await self.bought(batch_id)]
        return "\n".join(["the batch does not end", str(await self.stands(batch_id)), *bought, *lines])

    def announcer(self) -> Announcer:
        """Tells the engine."""
        offers = cast(Publisher, Offers(engine=self.engine))
        return Announcer(self.world.database, offers, rules=Rules(prices=PRICES))

    async def stands(self, batch_id: UUID) -> Batch:
        async with self.world.database.read() as connection:
            return (await batches.by_ids(connection, [batch_id]))[batch_id]

    async def bought(self, batch_id: UUID) -> list[Bought]:
        """Its upstream batches."""
        async with self.world.database.read() as connection:
            return await upstream_batches.of_batch(connection, batch_id)

    async def until_bought(self, batch_id: UUID, *states: str) -> list[Bought]:
        """Its upstream batches, once there is one and all are in these states."""

        async def are_so() -> list[Bought] | None:
            found = await self.bought(batch_id)
            return found if found and all(row.state in states for row in found) else None

        found: list[Bought] = await until(are_so)
        return found

    async def modes(self, batch_id: UUID) -> Counter[tuple[str, str]]:
        """How many attempts of its lines there were of each mode and outcome."""
        statement = (
            sa.select(attempts.c.mode, attempts.c.outcome)
            .join(tasks, tasks.c.id == attempts.c.task_id)
            .where(tasks.c.batch_id == batch_id)
        )
        async with self.world.database.read() as connection:
            return Counter((row.mode, row.outcome) for row in (await connection.execute(statement)).all())

    async def results(self, batch_id: UUID) -> dict[int, Any]:
        """Line -> its answer."""
        statement = (
            sa.select(tasks.c.line, task_results.c.body)
            .join(task_results, task_results.c.task_id == tasks.c.id)
            .where(tasks.c.batch_id == batch_id, task_results.c.body.is_not(None))
        )
        async with self.world.database.read() as connection:
            return {row.line: orjson.loads(row.body) for row in (await connection.execute(statement)).all()}

    async def assert_books_agree(self) -> None:
        """Every cost is on the simulator's bill, once, and the accounts are the attempts' sum."""
        assert await self.world.cost_nano() == self.simulator.bill.cost_nano
        assert (await self.world.accounts()).cost_nano == self.simulator.bill.cost_nano
        charged = Counter(row["request_id"] for row in self.bill())
        assert all(times == 1 for times in charged.values())
        assert await ledgers.differing(self.world.database) == {}

    def bill(self) -> list[dict[str, str]]:
        text = b"".join(self.simulator.cloud.bill.csv()).decode()
        return list(csv.DictReader(io.StringIO(text)))

    async def amounts(self, batch_id: UUID) -> Any:
        """What stands in the batch's own budget: its max_cost."""
        statement = (
            sa.select(budget_periods)
            .join(budgets, budgets.c.id == budget_periods.c.budget_id)
            .where(budgets.c.batch_id == batch_id)
        )
        async with self.world.database.read() as connection:
            return (await connection.execute(statement)).one()

    async def change(self, batch_id: UUID, **values: Any) -> None:
        """Of its row."""
        async with self.world.database.write() as connection:
            await connection.execute(sa.update(batch_rows).where(batch_rows.c.id == batch_id).values(**values))
