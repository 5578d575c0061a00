"""A real Celery worker process on PostgreSQL and Redis."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.broker.private_redis import PrivateRedis
from tests.worker.celery_process import CeleryProcess
from tests.worker.scripted import Scripted, says
from tests.worker.world import INTERACTIVE, KEYS, PRICES, ROUTE, World, beat_of, until
from tollgate.broker.celery_app import create_celery
from tollgate.broker.publisher import Publisher
from tollgate.domain.lanes import LANES
from tollgate.domain.states import AttemptOutcome, TaskState
from tollgate.store.announce import AGAIN_AFTER_S
from worker.billing import Rules
from worker.watch import Watch

USAGE = {"prompt_tokens": 9, "completion_tokens": 4}


@pytest.fixture
def publisher(redis_url: str) -> Iterator[Publisher]:
    publisher = Publisher(create_celery(redis_url, lanes=LANES, publishes_only=True))
    yield publisher
    publisher.close()


def celery_process(world: World, redis_url: str, base_url: str, **settings: str) -> CeleryProcess:
    return CeleryProcess(
        environment={
            "TOLLGATE_DATABASE_URL": world.database_url,
            "TOLLGATE_REDIS_URL": redis_url,
            "TOLLGATE_ZHIPU_BASE_URL": base_url,
            "TOLLGATE_ZHIPU_API_KEY": KEYS["KEY_A"],
            **settings,
        }
    )


async def test_it_runs_what_the_publisher_tells_it(postgres_world: World, redis_url: str, publisher: Publisher) -> None:
    world = postgres_world
    simulator = await world.simulator()
    with celery_process(world, redis_url, simulator.base_url):
        ids = await world.queue(*(f"question {n}" for n in range(50)))
        publisher.announce(INTERACTIVE, {ROUTE: ids})
        for task_id in ids:
            await world.until_state(task_id, TaskState.SUCCEEDED)
    assert simulator.bill.charges == 50
    assert await world.cost_nano() == simulator.bill.cost_nano


async def test_sigterm_lets_calls_end_and_signs_off(
    postgres_world: World, redis_url: str, publisher: Publisher
) -> None:
    world = postgres_world
    async with Scripted(says(usage=USAGE)) as upstream:
        upstream.gate.clear()
        with celery_process(world, redis_url, upstream.base_url) as worker:
            [task_id] = await world.queue("hello")
            publisher.announce(INTERACTIVE, {ROUTE: [task_id]})
            await asyncio.wait_for(upstream.arrived.wait(), 30)
            worker.signal(signal.SIGTERM)
            upstream.gate.set()
            assert await worker.ended() == 0
    assert await world.state(task_id) is TaskState.SUCCEEDED
    assert await world.live_workers() == []


async def test_sigterm_gives_back_what_does_not_end_in_time(
    postgres_world: World, redis_url: str, publisher: Publisher
) -> None:
    world = postgres_world
    async with Scripted(says(usage=USAGE)) as upstream:
        upstream.gate.clear()
        with celery_process(world, redis_url, upstream.base_url, TOLLGATE_DRAIN_TIMEOUT_S="0.2") as worker:
            [task_id] = await world.queue("hello")
            publisher.announce(INTERACTIVE, {ROUTE: [task_id]})
            await asyncio.wait_for(upstream.arrived.wait(), 30)
            worker.signal(signal.SIGTERM)
            assert await worker.ended() == 0
        task = await world.task(task_id)
        assert (task.state, task.attempts[0].outcome) == (TaskState.QUEUED, AttemptOutcome.UNCERTAIN)
        assert await world.live_workers() == []


async def test_what_a_killed_worker_ran_is_rescued_and_runs_elsewhere(
    postgres_world: World, redis_url: str, publisher: Publisher
) -> None:
    world = postgres_world
    clock = [0.0]
    beat = beat_of(world.database, world.bus, publisher)
    beat.watch = Watch(world.database, world.bus, Rules(prices=PRICES), clock=lambda: clock[0])
    async with Scripted(says(usage=USAGE)) as upstream:
        upstream.gate.clear()
        with celery_process(world, redis_url, upstream.base_url) as worker:
            [task_id] = await world.queue("hello")
            publisher.announce(INTERACTIVE, {ROUTE: [task_id]})
            await asyncio.wait_for(upstream.arrived.wait(), 30)
            worker.signal(signal.SIGKILL)
            assert await worker.ended() == -signal.SIGKILL
        for _ in range(11):
            await beat.round()
            clock[0] += 2
        assert await world.state(task_id) is TaskState.QUEUED
        upstream.gate.set()
        with celery_process(world, redis_url, upstream.base_url):
            await until(world.live_workers, limit_s=30)

            async def announced() -> bool:
                await beat.round()
                return await world.state(task_id) is TaskState.SUCCEEDED

            await until(announced)
    task = await world.task(task_id)
    assert [a.outcome for a in task.attempts] == [AttemptOutcome.UNCERTAIN, AttemptOutcome.SUCCEEDED]


async def test_it_takes_messages_again_when_its_broker_is_back(postgres_world: World, tmp_path: Path) -> None:
    world, simulator = postgres_world, await postgres_world.simulator()
    server = PrivateRedis(tmp_path)
    server.start()
    publisher = Publisher(create_celery(server.url, lanes=LANES, publishes_only=True))
    try:
        with celery_process(world, server.url, simulator.base_url):
            [before] = await world.queue("before")
            publisher.announce(INTERACTIVE, {ROUTE: [before]})
            await world.until_state(before, TaskState.SUCCEEDED)
            server.stop()
            await asyncio.to_thread(server.start)
            [after] = await world.queue("after")

            async def told() -> bool:  # the publisher drops hints for a moment after a failure
                publisher.announce(INTERACTIVE, {ROUTE: [after]})
                return await world.state(after) is TaskState.SUCCEEDED

            # Sooner than a worker asks by itself for a task whose hint is so young.
            await until(told, limit_s=AGAIN_AFTER_S["interactive"] - 3)
    finally:
        publisher.close()
        server.stop()


async def test_a_setting_that_is_missing_ends_the_start_with_a_sentence(postgres_world: World, redis_url: str) -> None:
    environment = {"TOLLGATE_DATABASE_URL": postgres_world.database_url, "TOLLGATE_REDIS_URL": redis_url}
    with CeleryProcess(environment=environment) as worker:
        assert await worker.ended() != 0
        assert "no upstream has a key" in worker.log.read_text()


async def test_a_database_that_was_not_migrated_ends_the_start_with_a_sentence(
    empty_postgres_url: str, redis_url: str
) -> None:
    environment = {
        "TOLLGATE_DATABASE_URL": empty_postgres_url,
        "TOLLGATE_REDIS_URL": redis_url,
        "TOLLGATE_ZHIPU_API_KEY": KEYS["KEY_A"],
    }
    with CeleryProcess(environment=environment) as worker:
        assert await worker.ended() == 1
        assert "run `tollgate migrate`" in worker.log.read_text()
