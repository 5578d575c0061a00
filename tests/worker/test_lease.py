"""A worker's lease: renewed while its loop ticks, and begun anew when it was lost."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from uuid import UUID

from tests.worker.world import BRISK, ROUTE, World, until, zhipu
from tollgate.store import leases, pauses
from tollgate.store.database import Database
from worker.lease import Heartbeat, Lease, Timing

USAGE = {"prompt_tokens": 1, "completion_tokens": 1}


async def test_a_lease_is_renewed_and_tells_its_load(world: World) -> None:
    simulator = await world.simulator()
    engine = await world.engine(zhipu(simulator.base_url, max_in_flight=10))
    await world.run(engine, "one", "two")

    async def told() -> bool:
        [worker] = await world.live_workers()
        return worker.load == {ROUTE: leases.RouteLoad(2, 9)}

    await until(told)
    [worker] = await world.live_workers()
    assert worker.heartbeat > 1
    assert worker.id == engine.lease.worker_id


async def test_a_heartbeat_brings_pauses_and_the_number_of_workers(world: World) -> None:
    learned: list[Heartbeat] = []
    lease = lease_of(world, on_heartbeat=learned.append)
    await lease.start(world.database)
    try:
        now = datetime.now(UTC)
        async with world.database.write() as connection:
            await pauses.pause(
                connection, "zhipu", credential="K", reason="why", now=now, until=now + timedelta(minutes=1)
            )
        await until(lambda: _true(bool(learned[-1].pauses)))
        assert learned[-1].pauses[0].credential == "K"
        assert [worker.lanes for worker in learned[-1].workers] == [("cloud.bulk",)]
    finally:
        await lease.stop(world.database)
    assert await world.live_workers() == []


async def test_a_new_worker_knows_the_pauses_before_its_first_call(world: World) -> None:
    now = datetime.now(UTC)
    async with world.database.write() as connection:
        await pauses.pause(connection, "zhipu", credential="K", reason="why", now=now, until=now + timedelta(minutes=1))
    learned: list[Heartbeat] = []
    lease = lease_of(world, on_heartbeat=learned.append, timing=Timing())
    await lease.start(world.database)
    assert [pause.credential for pause in learned[0].pauses] == ["K"]
    await lease.stop(world.database)


async def test_what_an_earlier_registration_held_may_not_be_sent(world: World) -> None:
    lost = threading.Event()
    lease = lease_of(world, on_lost=lost.set)
    await lease.start(world.database)
    first = lease.worker_id
    assert lease.may_send(first)
    await world.bury(first)
    await until(lambda: _true(lost.is_set() and lease.may_send(lease.worker_id)))
    assert not lease.may_send(first)
    await lease.stop(world.database)
    assert not lease.may_send(lease.worker_id)


async def test_a_lease_that_is_not_confirmed_may_not_send_for_long(world: World) -> None:
    # It counts from before the registration, which takes longer than it looks on a busy machine.
    lease = lease_of(world, timing=Timing(renew_s=3600, send_within_s=2.0))
    await lease.start(world.database)
    assert lease.may_send(lease.worker_id)
    await until(lambda: _true(not lease.may_send(lease.worker_id)))
    await lease.stop(world.database)


async def test_a_loop_that_stops_ticking_is_not_vouched_for(world: World) -> None:
    lease = lease_of(world, timing=Timing(renew_s=0.02, tick_s=0.02, tick_within_s=0.1))
    await lease.start(world.database)
    before = (await world.live_workers())[0].heartbeat
    beats = hold_the_loop(lambda: _heartbeats(world.database_url, renewals_missed=10))
    assert beats[-1] == beats[-10]
    assert beats[-1] - before < 15  # those of the first 0.1 s

    async def renewed() -> bool:
        return (await world.live_workers())[0].heartbeat > beats[-1]

    await until(renewed)
    await lease.stop(world.database)


def test_a_process_whose_loop_hangs_ends(sqlite_url: str) -> None:
    program = f"""
import asyncio, threading
from tollgate.store.database import Database
from worker.lease import Lease, Timing

async def main():
    database = Database.connect({sqlite_url!r})
    lease = Lease(
        database_url={sqlite_url!r}, name="x", lanes=("cloud.bulk",), load=dict, on_heartbeat=print, on_lost=print,
        timing=Timing(renew_s=0.05, tick_s=0.02, hang_s=0.3),
    )
    await lease.start(database)
    threading.Event().wait(60)

asyncio.run(main())
"""
    assert subprocess.run([sys.executable, "-c", program], check=False, timeout=50).returncode == 70


async def test_an_outage_of_the_database_is_outlived(world: World) -> None:
    lease = lease_of(world)
    broken = lease_of(world, url="postgresql://nobody@127.0.0.1:1/none")
    await lease.start(world.database)
    await broken.start(world.database)  # registers by the good connection, and renews by the bad one
    await until(lambda: _heartbeat_over(world, lease.worker_id, 5))
    assert broken.may_send(broken.worker_id)
    await broken.stop(world.database)
    await lease.stop(world.database)


def lease_of(
    world: World,
    *,
    url: str | None = None,
    timing: Timing = BRISK,
    on_heartbeat: Callable[[Heartbeat], None] = lambda _: None,
    on_lost: Callable[[], None] = lambda: None,
) -> Lease:
    return Lease(
        database_url=url or world.database_url,
        name="test",
        lanes=("cloud.bulk",),
        load=dict,
        on_heartbeat=on_heartbeat,
        on_lost=on_lost,
        timing=timing,
    )


def hold_the_loop(work: Callable[[], list[int]]) -> list[int]:
    """Run `work` in a thread while this loop does nothing at all."""
    found: list[int] = []
    thread = threading.Thread(target=lambda: found.extend(work()))
    thread.start()
    thread.join(30)
    return found


def _heartbeats(url: str, *, renewals_missed: int) -> list[int]:
    """The one worker's heartbeat, read every 50 ms, until it stood still for so many readings."""

    async def read() -> list[int]:
        database = Database.connect(url, pool=1)
        seen: list[int] = []
        while len(seen) < renewals_missed or len(set(seen[-renewals_missed:])) > 1:
            async with database.read() as connection:
                seen.append((await leases.alive(connection))[0].heartbeat)
            await asyncio.sleep(0.05)
        await database.close()
        return seen

    return asyncio.run(read())


async def _true(value: bool) -> bool:
    return value


async def _heartbeat_over(world: World, worker_id: UUID, count: int) -> bool:
    return any(w.id == worker_id and w.heartbeat > count for w in await world.live_workers())
