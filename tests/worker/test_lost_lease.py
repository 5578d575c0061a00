"""A worker that is declared dead while it lives: what it sent was paid, and its answers still count."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from uuid import UUID

import pytest

from tests.store import seeds
from tests.worker.scripted import Scripted, says
from tests.worker.world import BULK, INTERACTIVE, PRICES, ROUTE, World, until, zhipu
from tollgate.domain.states import AttemptOutcome, TaskState
from tollgate.store import cancels
from tollgate.store.claims import Claimed
from worker.billing import Rules
from worker.engine import Engine
from worker.watch import Watch

USAGE = {"prompt_tokens": 100, "completion_tokens": 50}
COST_NANO = 100 * 2_000 + 50 * 8_000


@pytest.fixture
async def upstream() -> AsyncIterator[Scripted]:
    async with Scripted(says("four", usage=USAGE)) as scripted:
        scripted.gate.clear()
        yield scripted


async def lose_the_lease(world: World, engine: Engine) -> None:
    """Return when the engine knows, and is registered anew."""
    lost = engine.lease.worker_id
    await world.bury(lost)
    await until(lambda: _anew(engine, lost))


async def called_and_lost(world: World, upstream: Scripted) -> tuple[Engine, UUID]:
    """A task whose call is in flight under a lost lease. Its lane is another's: this engine does not feed itself."""
    patient = zhipu(upstream.base_url, first_byte_timeout_s=60.0, total_timeout_s=60.0)
    engine = await world.engine(patient, lanes=(INTERACTIVE,))
    [task_id] = await world.queue("hello", lane=BULK)
    engine.offer(INTERACTIVE, {ROUTE: [task_id]})
    await upstream.arrived.wait()
    await lose_the_lease(world, engine)
    return engine, task_id


async def rescue(world: World) -> int:
    return await Watch(world.database, world.bus, Rules(prices=PRICES)).rescue()


async def test_a_late_answer_ends_a_task_that_was_rescued_and_waits(world: World, upstream: Scripted) -> None:
    _, task_id = await called_and_lost(world, upstream)
    assert await rescue(world) == 1
    assert (await world.task(task_id)).attempts[0].outcome is AttemptOutcome.UNCERTAIN
    upstream.gate.set()
    [task] = await world.ended([task_id])
    assert task.state is TaskState.SUCCEEDED
    assert [(a.outcome, a.cost_nano) for a in task.attempts] == [(AttemptOutcome.SUCCEEDED, COST_NANO)]
    accounts = await world.accounts()
    assert (accounts.cost_nano, accounts.possible_cost_nano, accounts.attempts_uncertain) == (COST_NANO, 0, 0)
    assert len(upstream.asked) == 1


async def test_a_late_answer_of_a_task_that_runs_elsewhere_settles_its_own_attempt_only(
    world: World, upstream: Scripted
) -> None:
    _, task_id = await called_and_lost(world, upstream)
    await rescue(world)
    [elsewhere] = await _claimed_when_due(world, task_id)
    upstream.gate.set()
    await until(lambda: _cost_known(world))
    task = await world.task(task_id)
    assert (task.state, elsewhere.attempt) == (TaskState.RUNNING, 2)
    assert {a.number: (a.outcome, a.cost_nano) for a in task.attempts} == {
        1: (AttemptOutcome.SUCCEEDED, COST_NANO),
        2: (AttemptOutcome.OPEN, None),
    }


async def test_a_cancel_of_the_rescued_task_does_not_stop_the_answer_from_telling_its_cost(
    world: World, upstream: Scripted
) -> None:
    engine, task_id = await called_and_lost(world, upstream)
    await rescue(world)
    async with world.database.write() as connection:
        await cancels.cancel(connection, task_id, project_id=world.key.project_id, now=datetime.now(UTC))
    engine.runner.cancel([task_id])
    upstream.gate.set()
    await until(lambda: _cost_known(world))
    task = await world.task(task_id)
    assert (task.state, task.attempts[0].outcome) == (TaskState.CANCELLED, AttemptOutcome.SUCCEEDED)


async def test_an_answer_before_the_rescue_ends_the_task_as_if_nothing_had_been(
    world: World, upstream: Scripted
) -> None:
    _, task_id = await called_and_lost(world, upstream)
    upstream.gate.set()
    [task] = await world.ended([task_id])
    assert (task.state, len(task.attempts)) == (TaskState.SUCCEEDED, 1)
    assert await rescue(world) == 0


async def test_one_worker_may_run_a_task_anew_beside_its_own_lost_call(world: World, upstream: Scripted) -> None:
    engine, task_id = await called_and_lost(world, upstream)
    await rescue(world)
    await until(lambda: _asked_again(engine, upstream, task_id))
    assert len(engine.runner) == 2
    upstream.gate.set()
    [task] = await world.ended([task_id])
    await engine.runner.drain(10)
    task = await world.task(task_id)
    assert {a.outcome for a in task.attempts} == {AttemptOutcome.SUCCEEDED}
    assert await world.cost_nano() == 2 * COST_NANO
    assert len(engine.runner) == 0


async def test_a_stop_aborts_both_calls_of_a_task_that_runs_twice_here(world: World, upstream: Scripted) -> None:
    engine, task_id = await called_and_lost(world, upstream)
    await rescue(world)
    await until(lambda: _asked_again(engine, upstream, task_id))
    await engine.stop(drain_timeout_s=0)
    assert len(engine.runner) == 0
    task = await world.task(task_id)
    assert (task.state, {a.outcome for a in task.attempts}) == (TaskState.QUEUED, {AttemptOutcome.UNCERTAIN})


async def test_what_was_not_sent_when_the_lease_was_lost_is_given_back(world: World) -> None:
    connected = asyncio.Event()
    writers: list[asyncio.StreamWriter] = []

    async def say_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        connected.set()
        await reader.read()
        writer.close()

    # It takes the connection and never shakes hands: the call's first byte cannot leave.
    server = await asyncio.start_server(say_nothing, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    engine = await world.engine(
        zhipu(f"https://127.0.0.1:{port}/v4", connect_timeout_s=60.0, total_timeout_s=60.0), lanes=(INTERACTIVE,)
    )
    [task_id] = await world.queue("hello", lane=BULK)
    engine.offer(INTERACTIVE, {ROUTE: [task_id]})
    await connected.wait()
    await lose_the_lease(world, engine)
    task = await world.until_state(task_id, TaskState.QUEUED)
    assert (task.tries, [a.outcome for a in task.attempts]) == (0, [AttemptOutcome.OPEN])
    server.close()
    for writer in writers:
        writer.close()


async def _anew(engine: Engine, lost: UUID) -> bool:
    return engine.lease.worker_id != lost and engine.lease.may_send(engine.lease.worker_id)


async def _claimed_when_due(world: World, task_id: UUID) -> list[Claimed]:
    async def claimed() -> list[Claimed]:
        return await seeds.claim(world.database, task_id, now=datetime.now(UTC))

    found: list[Claimed] = await until(claimed)
    return found


async def _cost_known(world: World) -> bool:
    return await world.cost_nano() > 0


async def _asked_again(engine: Engine, upstream: Scripted, task_id: UUID) -> bool:
    engine.offer(INTERACTIVE, {ROUTE: [task_id]})
    return len(upstream.asked) == 2
