"""A model on one's own device and in the cloud: where its tasks go as workers of either come and go."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest

from tests.store import batch_seeds, seeds
from tests.store.ledgers import differing
from tests.worker.test_announcer import a_worker
from tests.worker.world import HASTY, KEYS, PRICES, World, beat_of, until, zhipu
from tollgate.domain.batches import Via
from tollgate.domain.errors import UpstreamError
from tollgate.domain.lanes import expand
from tollgate.domain.routing import Catalog, Model, Route, UpstreamSpec
from tollgate.domain.states import AttemptOutcome, Priority, TaskState
from tollgate.domain.usage import TokenUsage
from tollgate.simulator import Faults
from worker.beat import Beat
from worker.billing import Rules
from worker.engine import Engine
from worker.upstreams.registry import Connected
from worker.upstreams.upstream import Answer, Call

GPU, CLOUD = "gpu/glm-4-9b", "zhipu/glm-4.7"
LOCAL, IN_CLOUD = expand("local"), expand("cloud")
HERE = UpstreamSpec(name="gpu", kind="local")
ELSEWHERE = UpstreamSpec(name="gpu-2", kind="local")
BODY = (
    '{"id":"local-1","model":"glm-4-9b","choices":[{"index":0,"finish_reason":"stop","message":'
    '{"role":"assistant","content":"here"}}],"usage":{"prompt_tokens":3,"completion_tokens":1,"total_tokens":4}}'
)
USAGE = TokenUsage(prompt_tokens=3, completion_tokens=1)


class Device:
    """A model in this process, as `worker.upstreams.upstream.Upstream` has it; with a `fault` its calls fail so."""

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.fault: int | None = None
        """An HTTP status."""

    async def call(self, call: Call) -> Answer:
        call.on_sent()
        self.calls.append(call)
        if self.fault is not None:
            raise UpstreamError("the device is lost", http_status=self.fault)
        return Answer(body=BODY, usage=USAGE, http_status=200, upstream_id="local-1", finish_reason="stop")

    async def close(self) -> None: ...


def rules_of(*routes: str, url: str = "http://127.0.0.1:9", **of_model: Any) -> Rules:
    """Of a model with these routes, and of one that runs on the device only."""
    made = tuple(Route(upstream=route.partition("/")[0], model=route.partition("/")[2]) for route in routes)
    here = Route(upstream="gpu", model="glm-4-9b")
    models = (Model(name="glm-4.7", routes=made, **of_model), Model(name="ours", routes=(here,)))
    upstreams = {"gpu": HERE, "gpu-2": ELSEWHERE, "zhipu": zhipu(url)}
    catalog = Catalog(upstreams=upstreams, models={model.name: model for model in models})
    return Rules(prices=PRICES, policy=HASTY, catalog=catalog)


class Telling:
    """In the publisher's place: each lane's message to one worker that serves it."""

    def __init__(self) -> None:
        self.engines: list[tuple[tuple[str, ...], Engine]] = []
        self.told: dict[str, list[UUID]] = {}

    def announce(self, lane: str, hints: Mapping[str, list[UUID]]) -> None:
        for route, ids in hints.items():
            self.told.setdefault(route, []).extend(ids)
        for lanes, engine in self.engines:
            if lane in lanes:
                engine.offer(lane, hints)
                return


class Installation:
    """A beat, and workers of either kind."""

    def __init__(self, world: World, rules: Rules) -> None:
        self.world = world
        self.rules = rules
        self.telling = Telling()
        self.beat: Beat = beat_of(world.database, world.bus, self.telling, rules=rules)

    async def local(self, spec: UpstreamSpec = HERE) -> Device:
        device = Device()
        upstreams = {spec.name: Connected(spec=spec, upstream=device, credentials=("",))}
        await self._engine(LOCAL, upstreams=upstreams)
        return device

    async def cloud(self) -> None:
        await self._engine(IN_CLOUD)

    async def _engine(self, lanes: tuple[str, ...], **changes: Any) -> None:
        spec = self.rules.catalog.upstreams["zhipu"]
        engine = await self.world.engine(spec, rules=self.rules, lanes=lanes, **changes)
        self.telling.engines.append((lanes, engine))

    async def until_ended(self, ids: list[UUID]) -> list[Any]:
        """With rounds of the beat meanwhile; the tasks as they are then."""

        async def ended() -> bool:
            await self.beat.round()
            return self.world.ended_ids.issuperset(ids)

        await until(ended)
        return [await self.world.task(task_id) for task_id in ids]


async def waiting(world: World, count: int = 1, **changes: Any) -> list[UUID]:
    """That nobody was told of."""
    plain: dict[str, Any] = {"route": GPU, "lane": "local.interactive", "announced_at": None}
    return await world.queue(*(f"text {n}" for n in range(count)), **{**plain, **changes})


async def routes_of(world: World, ids: list[UUID]) -> list[str]:
    return [(await seeds.row(world.database, task_id)).route for task_id in ids]


async def test_without_a_local_worker_tasks_run_in_the_cloud(world: World) -> None:
    cloud = await world.simulator()
    there = Installation(world, rules_of(GPU, CLOUD, url=cloud.base_url))
    await there.cloud()
    ids = await waiting(world, 20)
    done = await there.until_ended(ids)
    assert {(task.state, task.route) for task in done} == {(TaskState.SUCCEEDED, CLOUD)}
    assert {tuple((a.upstream, a.outcome) for a in task.attempts) for task in done} == {
        (("zhipu", AttemptOutcome.SUCCEEDED),)
    }
    assert cloud.bill.charges == 20
    assert await differing(world.database) == {}


async def test_with_a_local_worker_they_run_there(world: World) -> None:
    there = Installation(world, rules_of(GPU, CLOUD))
    await there.cloud()
    device = await there.local()
    done = await there.until_ended(await waiting(world, 20))
    assert {(task.state, task.route) for task in done} == {(TaskState.SUCCEEDED, GPU)}
    assert len(device.calls) == 20


async def test_a_worker_says_what_it_has_before_it_is_asked(world: World) -> None:
    """From its first moment: else tasks would go to the cloud for as long as nobody has met the route."""
    there = Installation(world, rules_of(GPU, CLOUD))
    await there.local()
    [worker] = await world.live_workers()
    assert worker.load[GPU].blocked is False
    assert CLOUD not in worker.load


@pytest.mark.parametrize("who", ["nobody", "another model's", "the dead"])
async def test_whose_model_is_gone_they_leave_the_device(world: World, who: str) -> None:
    there = Installation(world, rules_of(GPU, CLOUD))
    await a_worker(world, {CLOUD: (0, 20)}, lanes=IN_CLOUD)
    if who == "another model's":
        await there.local(ELSEWHERE)
    if who == "the dead":
        await world.bury(await a_worker(world, {GPU: (0, 20)}, lanes=LOCAL))
    ids = await waiting(world, 3)
    await there.beat.round()
    assert await routes_of(world, ids) == [CLOUD] * 3


async def test_a_model_that_runs_nowhere_else_waits_and_nobody_is_told(world: World) -> None:
    """Not even another model's worker, which could only give it back."""
    there = Installation(world, rules_of(GPU, CLOUD))
    await there.cloud()
    await there.local(ELSEWHERE)
    ids = await waiting(world, 3, model="ours")
    for _ in range(2):
        await there.beat.round()
    assert await routes_of(world, ids) == [GPU] * 3
    assert there.telling.told == {}
    device = await there.local()
    there.telling.engines.reverse()
    done = await there.until_ended(ids)
    assert {task.route for task in done} == {GPU}
    assert len(device.calls) == 3


async def test_where_nobody_is_left_they_wait_where_they_are(world: World) -> None:
    there = Installation(world, rules_of(GPU, CLOUD))
    ids = await waiting(world, 3)
    await there.beat.round()
    assert await routes_of(world, ids) == [GPU] * 3


async def test_a_hint_to_a_lane_without_workers_is_soon_trusted_no_more(world: World) -> None:
    """Whoever took it just now may be about to run it; seconds later nobody is. No sync call waits for its 15 s."""
    there = Installation(world, rules_of(GPU, CLOUD))
    await a_worker(world, {CLOUD: (0, 20)}, lanes=IN_CLOUD)
    now = datetime.now(UTC)
    [old], [fresh] = [await waiting(world, announced_at=now - timedelta(seconds=ago)) for ago in (4.5, 0)]
    await there.beat.round()
    assert await routes_of(world, [old, fresh]) == [CLOUD, GPU]


async def test_a_local_worker_that_comes_back_gets_what_has_not_left(world: World) -> None:
    there = Installation(world, rules_of(GPU, CLOUD))
    await a_worker(world, {CLOUD: (0, 1)}, lanes=IN_CLOUD)
    ids = await waiting(world, 20, lane="local.bulk")
    await there.beat.round()
    assert sorted(await routes_of(world, ids)) == [GPU] * 12 + [CLOUD] * 8
    device = await there.local()
    kept = [i for i, route in zip(ids, await routes_of(world, ids), strict=True) if route == GPU]
    await there.until_ended(kept)
    assert len(device.calls) == 12


async def test_what_the_cloud_refuses_does_not_go_to_a_device_that_nobody_has(world: World) -> None:
    cloud = await world.simulator(rate_limit_code="1305", faults=Faults(rate_limit=1.0))
    there = Installation(world, rules_of(GPU, CLOUD, url=cloud.base_url, fallback_after=1))
    await there.cloud()
    [task_id] = await waiting(world)

    async def tried_often() -> bool:
        await there.beat.round()
        return bool((await seeds.row(world.database, task_id)).tries >= 4)

    await until(tried_often)
    row = await seeds.row(world.database, task_id)
    assert (row.route, row.attempt) == (CLOUD, 1), "one stay in the cloud, however often it was tried"
    cloud.change(faults={"rate_limit": 0.0})
    [task] = await there.until_ended([task_id])
    assert task.state is TaskState.SUCCEEDED


async def test_a_device_that_fails_is_left_for_the_cloud(world: World) -> None:
    cloud = await world.simulator()
    there = Installation(world, rules_of(GPU, CLOUD, url=cloud.base_url, fallback_after=1))
    await there.cloud()
    device = await there.local()
    await until(lambda: _sees_the_cloud(there))
    device.fault = 500
    [task] = await there.until_ended(await waiting(world))
    assert (task.state, task.route) == (TaskState.SUCCEEDED, CLOUD)
    assert [(a.upstream, a.outcome) for a in task.attempts] == [
        ("gpu", AttemptOutcome.UNCERTAIN),
        ("zhipu", AttemptOutcome.SUCCEEDED),
    ]
    assert await differing(world.database) == {}


async def test_a_device_may_be_the_clouds_fallback(world: World) -> None:
    """The worker that meets the failure has not got the model: others' heartbeats say that it is there."""
    cloud = await world.simulator(rate_limit_code="1305", faults=Faults(rate_limit=1.0))
    there = Installation(world, rules_of(CLOUD, GPU, url=cloud.base_url))
    device = await there.local()
    await there.cloud()
    [task_id] = await waiting(world, route=CLOUD, lane="cloud.interactive")
    [task] = await there.until_ended([task_id])
    assert (task.state, task.route) == (TaskState.SUCCEEDED, GPU)
    assert [a.upstream for a in task.attempts] == ["zhipu", "gpu"]
    assert len(device.calls) == 1


async def test_a_paused_cloud_sends_what_waits_to_the_device(world: World) -> None:
    cloud = await world.simulator(refuse_keys={KEYS["KEY_A"]: "1113"})
    there = Installation(world, rules_of(CLOUD, GPU, url=cloud.base_url))
    await there.cloud()
    await there.local()
    done = await there.until_ended(await waiting(world, 10, route=CLOUD, lane="cloud.interactive"))
    assert {(task.state, task.route) for task in done} == {(TaskState.SUCCEEDED, GPU)}


async def lines_of(world: World, via: Via, *, count: int = 3) -> list[UUID]:
    """Of a batch on the device's bulk lane."""
    now = datetime.now(UTC)
    ends = now + timedelta(hours=1)
    batch = await batch_seeds.made(world.database, world.key, total=count, via=via, created_at=now, expires_at=ends)
    lines = [
        replace(
            world.task_of(f"line {n}", now=now, route=GPU, lane="local.bulk"),
            batch_id=batch.id,
            feed=batch.id,
            line=n,
        )
        for n in range(1, count + 1)
    ]
    assert await batch_seeds.take_in(world.database, batch, batch_seeds.a_step(lines), now=now)
    return [line.id for line in lines]


async def test_a_batch_via_local_waits_for_the_device_and_holds_up_nobody(world: World) -> None:
    there = Installation(world, rules_of(GPU, CLOUD))
    await a_worker(world, {CLOUD: (0, 1)}, lanes=IN_CLOUD)
    ours, theirs = await lines_of(world, Via.LOCAL, count=30), await lines_of(world, Via.DIRECT)
    await there.beat.round()
    assert set(await routes_of(world, ours)) == {GPU}
    assert await routes_of(world, theirs) == [CLOUD] * 3
    untold = [(await seeds.row(world.database, task_id)).announced_at for task_id in ours]
    assert set(untold) == {None}
    device = await there.local()
    assert {task.state for task in await there.until_ended(ours)} == {TaskState.SUCCEEDED}
    assert len(device.calls) == 30


async def test_a_line_via_local_that_fails_there_is_tried_there_again(world: World) -> None:
    cloud = await world.simulator()
    there = Installation(world, rules_of(GPU, CLOUD, url=cloud.base_url, fallback_after=1))
    await there.cloud()
    device = await there.local()
    await until(lambda: _sees_the_cloud(there))
    device.fault = 503
    ours, theirs = await lines_of(world, Via.LOCAL, count=1), await lines_of(world, Via.DIRECT, count=1)
    await there.until_ended(theirs)

    async def tried() -> bool:
        await there.beat.round()
        return bool((await seeds.row(world.database, ours[0])).tries > 1)

    await until(tried)
    device.fault = None
    [task] = await there.until_ended(ours)
    assert (task.state, {a.upstream for a in task.attempts}) == (TaskState.SUCCEEDED, {"gpu"})
    assert await routes_of(world, theirs) == [CLOUD]
    assert cloud.bill.charges == 1


async def test_a_mover_that_was_told_wrongly_leaves_lines_via_local(world: World) -> None:
    """It is looked at again under the lock, whoever asks."""
    there = Installation(world, rules_of(GPU, CLOUD))
    mover = there.beat._announcer._mover
    assert mover is not None
    ours, theirs = await lines_of(world, Via.LOCAL), await lines_of(world, Via.DIRECT)
    moved = await mover.move([*ours, *theirs], stuck={GPU})
    assert sorted(i for ids in moved.values() for i in ids) == sorted(theirs)
    assert set(await routes_of(world, ours)) == {GPU}


async def test_movers_and_workers_at_once_run_each_task_once(postgres_world: World) -> None:
    """The local worker comes back just as its tasks leave."""
    world = postgres_world
    cloud = await world.simulator()
    there = Installation(world, rules_of(GPU, CLOUD, url=cloud.base_url))
    await there.cloud()
    ids = await waiting(world, 60)
    device, _ = await asyncio.gather(there.local(), there.beat.round())
    done = await there.until_ended(ids)
    assert {task.state for task in done} == {TaskState.SUCCEEDED}
    bought = [[a for a in task.attempts if a.outcome is AttemptOutcome.SUCCEEDED] for task in done]
    assert {len(of) for of in bought} == {1}
    assert cloud.bill.charges + len(device.calls) == 60
    assert await differing(world.database) == {}


async def _sees_the_cloud(there: Installation) -> bool:
    """Whether the local worker's heartbeat told it that somebody serves the cloud's lanes."""
    engine = next(engine for lanes, engine in there.telling.engines if lanes == LOCAL)
    return not any(engine._capacity.avoids(CLOUD, priority) for priority in Priority)
