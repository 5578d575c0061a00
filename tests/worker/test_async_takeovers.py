"""Submit and poll while something is away: the database, the worker that submitted, or its key."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
import sqlalchemy as sa

from tests.store import seeds
from tests.worker.async_cloud import AsyncCloud, always_done, numbered, refused, takes
from tests.worker.test_async_edges import BOUGHT, HELD, rescue, start, until_put_off
from tests.worker.test_async_mode import ASYNC, outcomes_of
from tests.worker.world import INTERACTIVE, KEYS, LIMIT_S, ROUTE, World, until, zhipu
from tollgate.domain.errors import StoreUnavailableError
from tollgate.domain.ids import new_id
from tollgate.domain.states import AttemptOutcome, OnUncertain, TaskState
from tollgate.store import claims, leases
from tollgate.store import pauses as pause_store
from tollgate.store.database import Database, ReadConnection, WriteConnection
from tollgate.store.schema import attempts, tasks
from worker import runner
from worker.engine import Engine
from worker.lease import Timing
from worker.upstreams.upstream import Call
from worker.upstreams.zhipu import ZhipuUpstream


class Leaving:
    """In the database's place: from `leave` on, it does not answer what is to be written."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._away = False
        self.missed = asyncio.Event()

    @contextlib.asynccontextmanager
    async def read(self) -> AsyncIterator[ReadConnection]:
        async with self._database.read() as connection:
            yield connection

    @contextlib.asynccontextmanager
    async def write(self) -> AsyncIterator[WriteConnection]:
        if self._away:
            self.missed.set()
            raise StoreUnavailableError("the database is away")
        async with self._database.write() as connection:
            yield connection

    write_once = write

    def leave(self) -> None:
        self._away = True


async def test_a_worker_stops_in_time_while_an_id_cannot_be_committed(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "SETTLE_S", 0.2)  # ten seconds would tell no more
    leaving = Leaving(world.database)
    async with AsyncCloud(numbered, always_done) as cloud:
        engine = await world.engine(zhipu(cloud.base_url), database=leaving)
        cloud.gate.clear()
        task_id = await start(world, engine)
        await cloud.arrived.wait()
        leaving.leave()
        cloud.gate.set()
        await leaving.missed.wait()
        async with asyncio.timeout(LIMIT_S):
            await engine.stop(drain_timeout_s=0.1)
    task = await world.task(task_id)
    assert (task.state, outcomes_of(task)) == (TaskState.RUNNING, HELD), "left to the rescue"


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seconds between the tries to settle would tell no more."""
    monkeypatch.setattr(runner, "AGAIN_AFTER_S", 0.01)


async def refuse_words(world: World) -> None:
    """From now on the database takes no open attempt with an upstream's words."""
    wordy = "NEW.outcome = 'open' AND NEW.error_message IS NOT NULL"
    async with world.database.write() as connection:
        if world.database.dialect == "sqlite":
            await connection.exec_driver_sql(
                f"CREATE TRIGGER wordless BEFORE UPDATE ON attempts WHEN {wordy}"
                " BEGIN SELECT RAISE(ABORT, 'refused'); END"
            )
            return
        await connection.exec_driver_sql(
            "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RAISE ''refused''; END'"
        )
        await connection.exec_driver_sql(
            f"CREATE TRIGGER wordless BEFORE UPDATE ON attempts FOR EACH ROW WHEN ({wordy}) EXECUTE FUNCTION refuse()"
        )


@pytest.mark.usefixtures("hasty")
async def test_a_refusal_that_cannot_be_stored_goes_without_its_words(world: World) -> None:
    await refuse_words(world)
    async with AsyncCloud(lambda turn: refused(429, "1302") if turn == 1 else numbered(turn), always_done) as cloud:
        engine = await world.engine(zhipu(cloud.base_url))
        [task] = await world.run(engine, "hello", **ASYNC)
    assert (task.state, outcomes_of(task), task.tries) == (TaskState.SUCCEEDED, BOUGHT, 1)
    assert len(cloud.sent) == 2


async def break_once(world: World) -> None:
    """The first end of an attempt meets an odd error of PostgreSQL's, which is no outage."""
    async with world.database.write() as connection:
        await connection.exec_driver_sql("CREATE SEQUENCE ends")  # not undone with the transaction that counts
        await connection.exec_driver_sql(
            "CREATE FUNCTION odd() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
            " IF nextval('ends') = 1 THEN RAISE EXCEPTION 'odd' USING ERRCODE = 'XX000'; END IF;"
            " RETURN NEW; END $$"
        )
        await connection.exec_driver_sql(
            "CREATE TRIGGER odd BEFORE UPDATE ON attempts FOR EACH ROW WHEN (NEW.outcome = 'succeeded')"
            " EXECUTE FUNCTION odd()"
        )


@pytest.mark.usefixtures("hasty")
async def test_one_odd_error_does_not_throw_a_good_answer_away(
    postgres_world: World, caplog: pytest.LogCaptureFixture
) -> None:
    world = postgres_world
    await break_once(world)
    async with AsyncCloud(numbered, always_done) as cloud:
        engine = await world.engine(zhipu(cloud.base_url))
        [task] = await world.run(engine, "hello", **ASYNC)
    assert [record.message for record in caplog.records].count("answer not stored") == 1
    assert (task.state, outcomes_of(task)) == (TaskState.SUCCEEDED, BOUGHT)


async def test_a_worker_that_was_buried_claims_nothing(world: World) -> None:
    """Nobody would rescue it: whoever buried the worker has looked at its tasks already."""
    async with AsyncCloud(numbered, always_done) as cloud:
        engine = await world.engine(zhipu(cloud.base_url), timing=Timing(renew_s=1.0, tick_s=0.02))
        buried = engine.lease.worker_id
        await world.bury(buried)
        task_id = await start(world, engine)

        async def ended() -> bool:
            engine.offer(INTERACTIVE, {ROUTE: [task_id]})
            return (await world.state(task_id)).ended

        await until(ended)
    [row] = await seeds.rows_of(world.database, attempts)
    assert (row.fence, row.worker_id == buried) == (1, False)
    assert row.worker_id == engine.lease.worker_id


async def unanswered_under_key_a(world: World, cloud: AsyncCloud) -> UUID:
    """Its worker died in the submit, and its task is queued again."""
    worker_id = new_id()
    [task_id] = await world.queue("hello", **ASYNC)
    async with world.database.write() as connection:
        now = datetime.now(UTC)
        await leases.register(connection, worker_id, name="w", lanes=("cloud",), now=now)
        [claimed] = await claims.claim(connection, [task_id], worker_id=worker_id, now=now, polled={"zhipu": "KEY_A"})
    call = Call(
        endpoint="chat",
        model="glm-4.7",
        body=claimed.body,
        request_id=claimed.upstream_request_id,
        credential="KEY_A",
        timeout_s=5,
        on_sent=lambda: None,
    )
    upstream = ZhipuUpstream(zhipu(cloud.base_url), base_url=cloud.base_url, secrets=KEYS)
    await upstream.submit(call)
    await upstream.close()
    await world.bury(worker_id)
    await rescue(world)
    return task_id


async def offer_now(world: World, engine: Engine, task_id: UUID) -> None:
    """A hint of what is not due is forgotten."""
    async with world.database.write() as connection:
        now = datetime.now(UTC)
        await connection.execute(sa.update(tasks).where(tasks.c.id == task_id).values(not_before=now))
    engine.offer(INTERACTIVE, {ROUTE: [task_id]})


async def test_an_unanswered_submit_is_repeated_only_with_its_own_key(world: World) -> None:
    async with AsyncCloud(lambda _: takes("t-1"), always_done) as cloud:
        task_id = await unanswered_under_key_a(world, cloud)
        stranger = await world.engine(zhipu(cloud.base_url, keys=("KEY_B",)))
        await offer_now(world, stranger, task_id)
        await until_put_off(world, task_id)
        assert len(cloud.sent) == 1
        await stranger.stop(drain_timeout_s=0)
        owner = await world.engine(zhipu(cloud.base_url, keys=("KEY_B", "KEY_A")))
        await offer_now(world, owner, task_id)
        [task] = await world.ended([task_id])
    assert (task.state, outcomes_of(task)) == (TaskState.SUCCEEDED, BOUGHT)
    assert len(cloud.sent) == 2
    assert len(set(cloud.sent)) == 1, "the same account and request_id"


async def test_an_unanswered_submit_waits_while_its_own_key_is_paused(world: World) -> None:
    async with AsyncCloud(lambda _: takes("t-1"), always_done) as cloud:
        task_id = await unanswered_under_key_a(world, cloud)
        now = datetime.now(UTC)
        async with world.database.write() as connection:
            await pause_store.pause(
                connection, "zhipu", credential="KEY_A", reason="test", now=now, until=now + timedelta(hours=1)
            )
        engine = await world.engine(zhipu(cloud.base_url, keys=("KEY_A", "KEY_B")))
        await offer_now(world, engine, task_id)
        await until_put_off(world, task_id)
        assert len(cloud.sent) == 1, "not under KEY_B, which works"
    task = await world.task(task_id)
    assert (outcomes_of(task), task.attempts[0].upstream_id) == (HELD, None)


async def test_what_a_dead_worker_called_directly_is_no_submit_to_repeat(world: World) -> None:
    """Its upstream speaks another wire by now: the attempt says how it was really asked."""
    worker_id = new_id()
    [task_id] = await world.queue("hello", on_uncertain=OnUncertain.FAIL, **ASYNC)
    async with world.database.write() as connection:
        now = datetime.now(UTC)
        await leases.register(connection, worker_id, name="w", lanes=("cloud",), now=now)
        await claims.claim(connection, [task_id], worker_id=worker_id, now=now, polled={})
    await world.bury(worker_id)
    await rescue(world)
    task = await world.task(task_id)
    assert (task.state, outcomes_of(task)) == (TaskState.FAILED, [AttemptOutcome.UNCERTAIN])
    assert task.attempts[0].mode == "direct"
