"""A settlement that the database refuses: its task is not left running, and what it cost is counted."""

from __future__ import annotations

import pytest

from tests.worker.scripted import Scripted, says
from tests.worker.world import INTERACTIVE, ROUTE, World, until, zhipu
from tollgate.domain.states import AttemptOutcome, TaskState
from worker import runner
from worker.outcomes import UNSTORABLE

USAGE = {"prompt_tokens": 100, "completion_tokens": 50}
COST_NANO = 100 * 2_000 + 50 * 8_000


async def refuse_settlements(world: World) -> None:
    """From now on the database refuses the end of any attempt."""
    async with world.database.write() as connection:
        if world.database.dialect == "sqlite":
            await connection.exec_driver_sql(
                "CREATE TRIGGER refuse BEFORE UPDATE OF outcome ON attempts BEGIN SELECT RAISE(ABORT, 'refused'); END"
            )
            return
        await connection.exec_driver_sql(
            "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RAISE ''refused''; END'"
        )
        await connection.exec_driver_sql(
            "CREATE TRIGGER refuse BEFORE UPDATE OF outcome ON attempts FOR EACH ROW EXECUTE FUNCTION refuse()"
        )


async def take_settlements_again(world: World) -> None:
    async with world.database.write() as connection:
        on = " ON attempts" if world.database.dialect == "postgresql" else ""
        await connection.exec_driver_sql(f"DROP TRIGGER refuse{on}")


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seconds of waiting would tell no more."""
    monkeypatch.setattr(runner, "AGAIN_AFTER_S", 0.01)


@pytest.mark.usefixtures("hasty")
async def test_a_settlement_that_is_refused_again_and_again_is_kept_until_it_is_stored(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    async with Scripted(says(usage=USAGE)) as upstream:
        engine = await world.engine(zhipu(upstream.base_url))
        await refuse_settlements(world)
        [task_id] = await world.queue("hello")
        engine.offer(INTERACTIVE, {ROUTE: [task_id]})
        await until(lambda: _refused(caplog, 4))
        assert await world.state(task_id) is TaskState.RUNNING
        await take_settlements_again(world)
        [task] = await world.ended([task_id])
    assert (task.state, task.error_code) == (TaskState.FAILED, UNSTORABLE)
    assert [(a.outcome, a.cost_nano) for a in task.attempts] == [(AttemptOutcome.FAILED, COST_NANO)]
    assert (await world.accounts()).cost_nano == COST_NANO
    assert len(upstream.asked) == 1


@pytest.mark.usefixtures("hasty")
async def test_the_waits_between_the_tries_double(world: World, caplog: pytest.LogCaptureFixture) -> None:
    async with Scripted(says(usage=USAGE)) as upstream:
        engine = await world.engine(zhipu(upstream.base_url))
        await refuse_settlements(world)
        [task_id] = await world.queue("hello")
        engine.offer(INTERACTIVE, {ROUTE: [task_id]})
        waits = await until(lambda: _refused(caplog, 4))
        assert waits[:4] == [0.01, 0.02, 0.04, 0.08]
        await take_settlements_again(world)
        await world.ended([task_id])


async def test_an_engine_that_stops_does_not_wait_for_it_for_ever(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(runner, "SETTLE_S", 0.1)  # The stop's patience; ten seconds would tell no more.
    async with Scripted(says(usage=USAGE)) as upstream:
        engine = await world.engine(zhipu(upstream.base_url))
        await refuse_settlements(world)
        [task_id] = await world.queue("hello")
        engine.offer(INTERACTIVE, {ROUTE: [task_id]})
        await until(lambda: _refused(caplog, 1))
        await engine.stop(drain_timeout_s=0)
    assert await world.state(task_id) is TaskState.RUNNING
    assert await world.live_workers() == []  # so that a watch takes it up


async def _refused(caplog: pytest.LogCaptureFixture, count: int) -> list[float]:
    """The waits that were logged, once there are so many."""
    waits = [r.__dict__["again_after_s"] for r in caplog.records if r.message == "not even its failure is stored"]
    return waits if len(waits) >= count else []
