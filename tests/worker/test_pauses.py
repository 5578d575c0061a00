"""A credential that is refused is paused; another takes over; a probe lifts the pause."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import partial
from uuid import UUID

import pytest
import sqlalchemy as sa

from tests.store import seeds
from tests.worker.world import INTERACTIVE, KEYS, ROUTE, World, until, zhipu
from tollgate.domain.ids import new_id
from tollgate.domain.states import AttemptOutcome, TaskState
from tollgate.simulator import Simulator
from tollgate.store import pauses as pause_store
from tollgate.store.database import Database
from tollgate.store.pauses import Pause
from tollgate.store.schema import pauses, tasks
from worker.credentials import Credentials
from worker.engine import Engine
from worker.pausing import Pauses

A, B = KEYS["KEY_A"], KEYS["KEY_B"]


@pytest.mark.parametrize("code", ["1113", "1003"])
async def test_a_refused_key_pauses_and_its_task_stays_queued(world: World, code: str) -> None:
    simulator = await world.simulator(refuse_keys={A: code})
    engine = await world.engine(zhipu(simulator.base_url))
    [task_id] = await world.queue("hello")
    engine.offer(INTERACTIVE, {ROUTE: [task_id]})
    await until(world.paused)
    task = await world.until_state(task_id, TaskState.QUEUED)
    assert task.tries == 0
    assert [(a.number, a.outcome) for a in task.attempts] == [(1, AttemptOutcome.OPEN)]
    [row] = (await world.paused()).values()
    assert (row.upstream, row.credential) == ("zhipu", "KEY_A")
    assert code in row.reason
    assert (row.until - row.since).total_seconds() == pytest.approx(60, abs=5)


async def test_while_paused_nothing_is_claimed_and_hints_are_given_back(world: World) -> None:
    simulator = await world.simulator(refuse_keys={A: "1113"})
    engine = await world.engine(zhipu(simulator.base_url))
    await _pause_by(world, engine)
    calls = simulator.stats.refusals["1113"]
    later = await world.queue("two", "three")
    engine.offer(INTERACTIVE, {ROUTE: later})
    await until(lambda: _unannounced(world, later))
    assert [(await seeds.row(world.database, i)).fence for i in later] == [0, 0]
    assert simulator.stats.refusals["1113"] == calls


async def test_a_second_credential_takes_over_at_once(world: World) -> None:
    simulator = await world.simulator(refuse_keys={A: "1113"})
    engine = await world.engine(zhipu(simulator.base_url, keys=("KEY_A", "KEY_B")))
    done = await world.run(engine, "one", "two", "three")
    assert {(task.state, task.tries) for task in done} == {(TaskState.SUCCEEDED, 0)}
    assert set(await world.paused()) == {"KEY_A"}


async def test_a_probe_lifts_the_pause_when_it_is_due(world: World) -> None:
    simulator = await world.simulator(refuse_keys={A: "1113"})
    engine = await world.engine(zhipu(simulator.base_url))
    task_id = await _pause_by(world, engine)
    simulator.change(refuse_keys={})
    await _let_probe(world)
    await until(lambda: _offered(world, engine, task_id))
    [task] = await world.ended([task_id])
    assert (task.state, len(task.attempts)) == (TaskState.SUCCEEDED, 1)
    await until(lambda: _no_pause(world))


async def test_a_probe_that_is_refused_prolongs_the_pause(world: World) -> None:
    simulator = await world.simulator(refuse_keys={A: "1113"})
    engine = await world.engine(zhipu(simulator.base_url))
    task_id = await _pause_by(world, engine)
    [before] = (await world.paused()).values()
    await _let_probe(world)
    await until(lambda: _offered(world, engine, task_id))
    await until(lambda: _until_after(world, datetime.now(UTC)))
    [after] = (await world.paused()).values()
    assert after.since == before.since
    # A third where a heartbeat that read the pauses before this one was noted came after it.
    assert simulator.stats.refusals["1113"] in (2, 3)
    assert (await world.until_state(task_id, TaskState.QUEUED)).tries == 0


async def test_a_pause_that_another_worker_noted_counts_here(world: World) -> None:
    simulator = await world.simulator()
    now = datetime.now(UTC)
    async with world.database.write() as connection:
        await pause_store.pause(
            connection, "zhipu", credential="KEY_A", reason="no_balance", now=now, until=now.replace(year=now.year + 1)
        )
    engine = await world.engine(zhipu(simulator.base_url))
    [task_id] = await world.queue("hello")
    engine.offer(INTERACTIVE, {ROUTE: [task_id]})
    await until(lambda: _unannounced(world, [task_id]))
    assert simulator.stats.requests["chat"] == 0
    async with world.database.write() as connection:
        await pause_store.lift(connection, "zhipu", credential="KEY_A")
    await until(lambda: _offered(world, engine, task_id))
    assert (await world.ended([task_id]))[0].state is TaskState.SUCCEEDED


async def test_two_workers_try_a_paused_key_with_one_call_a_minute(world: World) -> None:
    simulator = await world.simulator(refuse_keys={A: "1113"})
    engines = [await world.engine(zhipu(simulator.base_url)) for _ in range(2)]
    task_id = await _pause_by(world, engines[0])
    ids = [task_id, *await world.queue(*(f"question {n}" for n in range(20)))]
    for _ in range(2):
        await until(lambda: _all_know(engines, due=False))
        before = simulator.stats.refusals["1113"]
        await _let_probe(world)
        await until(partial(_all_know_or_one_tried, engines, simulator, before=before))
        for engine, part in zip(engines, (ids[::2], ids[1::2]), strict=True):
            engine.offer(INTERACTIVE, {ROUTE: part})
        await until(lambda: _until_after(world, datetime.now(UTC)))
        await until(lambda: _unannounced(world, ids))
        assert simulator.stats.refusals["1113"] == before + 1


async def test_one_workers_probe_lifts_the_pause_for_all(world: World) -> None:
    simulator = await world.simulator(refuse_keys={A: "1113"})
    engines = [await world.engine(zhipu(simulator.base_url)) for _ in range(2)]
    task_id = await _pause_by(world, engines[0])
    simulator.change(refuse_keys={})
    await _let_probe(world)
    await until(lambda: _offered(world, engines[0], task_id))
    await world.ended([task_id])
    await until(lambda: _all_know(engines, due=True))
    [task] = await world.run(engines[1], "hello")
    assert (task.state, task.tries) == (TaskState.SUCCEEDED, 0)


async def test_without_a_store_nobody_tries_a_paused_key() -> None:
    now = datetime.now(UTC)
    known = Pauses({"zhipu": ("KEY_A", "KEY_B")})
    known.replace([Pause(upstream="zhipu", credential="KEY_A", reason="why", since=now, until=now)])
    away = Database.connect("postgresql://nobody@127.0.0.1:1/none")
    assert await Credentials(away, known).choose("zhipu") == "KEY_B"
    await away.close()


async def _pause_by(world: World, engine: Engine) -> UUID:
    """The task whose call found the key refused, queued again."""
    [task_id] = await world.queue("hello")
    engine.offer(INTERACTIVE, {ROUTE: [task_id]})
    await until(world.paused)
    await until(lambda: _unannounced(world, [task_id]))
    return task_id


async def _let_probe(world: World) -> None:
    async with world.database.write() as connection:
        await connection.execute(sa.update(pauses).values(until=datetime.now(UTC)))


async def _offered(world: World, engine: Engine, task_id: UUID) -> bool:
    """Tell of it until it is taken, as the announcer would."""
    engine.offer(INTERACTIVE, {ROUTE: [task_id, new_id()]})
    return (await seeds.row(world.database, task_id)).fence > 1 or await world.state(task_id) is TaskState.SUCCEEDED


async def _all_know(engines: list[Engine], *, due: bool) -> bool:
    """Every engine has heard, with a heartbeat, that the key may be tried, or that it may not."""
    return all(engine._capacity.pauses.blocked("zhipu") is not due for engine in engines)


async def _all_know_or_one_tried(engines: list[Engine], simulator: Simulator, *, before: int) -> bool:
    """A worker whose heartbeat came first may have tried with a task that its feeder took, before the other knew."""
    return simulator.stats.refusals["1113"] > before or await _all_know(engines, due=True)


async def _no_pause(world: World) -> bool:
    return not await world.paused()


async def _until_after(world: World, moment: datetime) -> bool:
    return any(row.until > moment for row in (await world.paused()).values())


async def _unannounced(world: World, ids: list[UUID]) -> bool:
    found = {row.id: row for row in await seeds.rows_of(world.database, tasks)}
    return all(found[i].state == TaskState.QUEUED and found[i].announced_at is None for i in ids)
