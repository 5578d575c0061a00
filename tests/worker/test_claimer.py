"""Claims whose commit was never confirmed, outages and aborts between claim and settlement."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from datetime import UTC, datetime

import pytest

from tests.store import seeds
from tests.worker.world import World, zhipu
from tollgate import coalescing
from tollgate.domain.errors import StoreUnavailableError
from tollgate.domain.ids import new_id
from tollgate.domain.states import AttemptOutcome, TaskState
from tollgate.store.database import Database, WriteConnection
from worker import claimer


class Failing:
    """In the database's place: what it is to write next ends in an outage, before or after their commit."""

    def __init__(self, database: Database, *, times: int, commits: bool) -> None:
        self._database = database
        self.dialect = database.dialect
        self._times = times
        self._commits = commits
        self.read = database.read

    @contextlib.asynccontextmanager
    async def write(self) -> AsyncIterator[WriteConnection]:
        if self._times <= 0:
            async with self._database.write() as connection:
                yield connection
            return
        self._times -= 1
        with contextlib.suppress(_UndoneError):
            async with self._database.write() as connection:
                yield connection
                if not self._commits:
                    raise _UndoneError
        raise StoreUnavailableError("the connection was lost")

    write_once = write


class Held:
    """In the database's place: what is written waits for the gate."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.dialect = database.dialect
        self.reached = asyncio.Event()
        self.gate = asyncio.Event()

    @contextlib.asynccontextmanager
    async def write(self) -> AsyncIterator[WriteConnection]:
        self.reached.set()
        await self.gate.wait()
        async with self._database.write() as connection:
            yield connection

    write_once = write


class _UndoneError(Exception):
    pass


@pytest.fixture(autouse=True)
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """An outage is asked about every second: for a test that is long."""
    monkeypatch.setattr(claimer, "AGAIN_AFTER_S", 0.01)
    monkeypatch.setattr(coalescing, "AGAIN_AFTER_S", 0.01)


@pytest.mark.parametrize("commits", [True, False])
async def test_a_claim_that_was_not_confirmed_runs_once_all_the_same(world: World, commits: bool) -> None:
    simulator = await world.simulator()
    engine = await world.engine(zhipu(simulator.base_url))
    engine.claimer._database = Failing(world.database, times=1, commits=commits)  # type: ignore[assignment]
    done = await world.run(engine, "one", "two", "three")
    assert {(task.state, len(task.attempts)) for task in done} == {(TaskState.SUCCEEDED, 1)}
    assert simulator.bill.charges == 3


@pytest.mark.parametrize("commits", [True, False])
async def test_a_settlement_is_held_through_an_outage(world: World, commits: bool) -> None:
    simulator = await world.simulator()
    engine = await world.engine(zhipu(simulator.base_url))
    engine._settler._database = Failing(world.database, times=2, commits=commits)  # type: ignore[assignment]
    ids = await world.queue("one", "two", "three")
    engine.offer("cloud.interactive", {"zhipu/glm-4.7": ids})
    for task_id in ids:
        await world.until_state(task_id, TaskState.SUCCEEDED)
    assert simulator.bill.charges == 3
    assert await world.cost_nano() == simulator.bill.cost_nano == (await world.accounts()).cost_nano


async def test_an_answer_that_came_before_the_abort_is_settled(world: World) -> None:
    simulator = await world.simulator()
    engine = await world.engine(zhipu(simulator.base_url))
    held = Held(world.database)
    engine._settler._database = held  # type: ignore[assignment]
    [task_id] = await world.queue("hello")
    engine.offer("cloud.interactive", {"zhipu/glm-4.7": [task_id]})
    await held.reached.wait()
    engine.runner.cancel([task_id])
    engine.runner.abort_all()
    held.gate.set()
    [task] = await world.ended([task_id])
    assert task.state is TaskState.SUCCEEDED
    assert await world.cost_nano() == simulator.bill.cost_nano > 0


async def test_what_was_claimed_under_a_lost_registration_is_given_back_unsent(world: World) -> None:
    simulator = await world.simulator()
    engine = await world.engine(zhipu(simulator.base_url))
    await engine.feeder.stop()  # it would take the task again as soon as it is given back
    [task_id] = await world.queue("hello")
    stranger = new_id()
    [claimed] = await seeds.claim(world.database, task_id, worker_id=stranger, now=datetime.now(UTC))
    engine.runner.run(claimed, stranger)
    task = await world.until_state(task_id, TaskState.QUEUED)
    assert (task.tries, task.attempts[0].outcome) == (0, AttemptOutcome.OPEN)
    assert simulator.bill.charges == 0
