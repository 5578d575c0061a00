"""A route's concurrency is learned from what its upstream refuses, against the simulator's hidden limit.

Times are in round trips of LATENCY_S: what takes half a minute with calls of a second is seen in some seconds."""

from __future__ import annotations

import asyncio
import logging
import statistics
import time

import pytest
from aiohttp import web

from tests.worker.async_cloud import AsyncCloud, always_done, numbered
from tests.worker.scripted import Scripted, refuses, says
from tests.worker.world import INTERACTIVE, ROUTE, World, until, zhipu
from tollgate.domain.concurrency import START
from tollgate.domain.states import TaskState
from tollgate.simulator import Simulator
from worker.engine import Engine
from worker.lease import Timing

LATENCY_S = 0.4
TASKS = 2_000
"""More than can end in a test."""
PLAIN = Timing()
"""A heartbeat each 5 s, not each 50 ms: it would take the time of the calls."""


class Watched:
    """An engine that never runs out of work, and the simulator it calls."""

    def __init__(self, engine: Engine, simulator: Simulator) -> None:
        self.simulator = simulator
        self._slots = engine._capacity.slots(ROUTE)
        self._stats = simulator.stats

    async def learns(self, *, round_trips: int) -> tuple[float, float]:
        """The mean of the limit while they pass, and the share of the calls that was refused."""
        calls, refusals, limits = self._stats.requests.total(), self._stats.refusals.total(), []
        ends_at = time.monotonic() + round_trips * LATENCY_S
        while time.monotonic() < ends_at:
            limits.append(self._slots.limit)
            await asyncio.sleep(0.01)  # a mean over time has no signal to wait for
        calls, refusals = self._stats.requests.total() - calls, self._stats.refusals.total() - refusals
        assert calls > 0
        return statistics.fmean(limits), refusals / calls

    async def until_learnt(self, limit: int) -> None:
        """The learned limit is within a tenth of it."""

        async def is_so() -> bool:
            return abs(self._slots.limit - limit) <= limit / 10

        await until(is_so)


async def watched(world: World, *, hidden_limit: int) -> Watched:
    simulator = await world.simulator(latency_s=LATENCY_S, latency_jitter_s=0.1, max_in_flight=hidden_limit)
    engine = await world.engine(zhipu(simulator.base_url, max_in_flight=1000), timing=PLAIN)
    engine.offer(INTERACTIVE, {ROUTE: await world.queue(*["hello"] * TASKS)})
    return Watched(engine, simulator)


async def test_the_hidden_limit_is_found_and_held_with_few_refusals(postgres_world: World) -> None:
    route = await watched(postgres_world, hidden_limit=50)
    await route.learns(round_trips=8)
    mean, share_refused = await route.learns(round_trips=16)
    assert mean == pytest.approx(50, rel=0.2)
    assert share_refused < 0.1, "under 5 % is for a quiet machine (benchmarks, L): a busy one stretches round trips"
    assert route.simulator.stats.peak_in_flight == 50


async def test_a_limit_that_moves_is_followed_down_and_up(postgres_world: World) -> None:
    route = await watched(postgres_world, hidden_limit=50)
    await route.until_learnt(50)
    route.simulator.change(max_in_flight=25)
    await route.until_learnt(25)
    mean, share_refused = await route.learns(round_trips=8)
    assert mean == pytest.approx(25, rel=0.2)
    assert share_refused < 0.1, "some are of the way down"
    route.simulator.change(max_in_flight=100)
    await route.until_learnt(100)


async def test_calls_that_take_long_double_the_limit_before_any_has_ended(world: World) -> None:
    async with Scripted(says(usage={"prompt_tokens": 1, "completion_tokens": 1})) as upstream:
        upstream.gate.clear()
        engine = await world.engine(zhipu(upstream.base_url, max_in_flight=8 * START))
        ids = await world.queue(*["hello"] * (9 * START))
        engine.offer(INTERACTIVE, {ROUTE: ids})

        async def all_that_may_have_arrived() -> bool:
            return len(upstream.asked) == 8 * START

        await until(all_that_may_have_arrived)
        upstream.gate.set()
        await world.ended(ids)


@pytest.mark.parametrize(
    ("mode", "code", "limit"),
    [
        ("direct", "1302", 13),
        ("direct", "1303", 13),
        ("direct", None, 13),
        ("direct", "1305", START),
        ("direct", "1312", START),
        ("async", "1302", 13),
        ("async", "1305", START),
    ],
)
async def test_a_429_for_our_rate_lowers_the_limit_and_one_for_an_overload_does_not(
    world: World, caplog: pytest.LogCaptureFixture, mode: str, code: str | None, limit: int
) -> None:
    def submit(turn: int) -> web.Response:
        if turn == 1:
            return refuses(429, code)()
        return numbered(turn) if mode == "async" else says()()

    caplog.set_level(logging.INFO, logger="tollgate.trial")
    async with AsyncCloud(submit, always_done) as cloud:
        engine = await world.engine(zhipu(cloud.base_url))
        [task] = await world.run(engine, "hello", mode=mode)
    assert task.state is TaskState.SUCCEEDED
    assert engine._capacity.slots(ROUTE).limit == limit
    told = [vars(record) for record in caplog.records if record.message == "concurrency lowered"]
    assert [(one["route"], one["limit"]) for one in told] == ([(ROUTE, limit)] if limit < START else [])
