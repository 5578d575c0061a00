"""Tells workers what is due: new tasks whose hint was lost or held back, retries, what dead workers held.

Plain form: each queue (route and lane) that a live worker serves gets a window of hints by what its route
settles in two rounds, at least twice its free slots, so that one slow or paused model never starves another.
Inside a window its feeds (batches, projects) take turns.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from uuid import UUID

from tollgate.broker.publisher import Publisher
from tollgate.domain.lanes import place_of, priority_of
from tollgate.domain.settling import Settlement
from tollgate.domain.states import AttemptOutcome, TaskState
from tollgate.store import announce, leases, queues
from tollgate.store.announce import Overdue
from tollgate.store.database import Database, ReadConnection
from tollgate.store.queues import Queue
from worker.billing import Rules
from worker.rerouting import MOVED_AT_ONCE, Mover, StuckBy
from worker.slots import RATE_WINDOW_S
from worker.sweeping import Sweep

log = logging.getLogger("tollgate.announcer")

EVERY_S = 2.0
"""From one round to the next."""
EXPIRE_AT_ONCE = 1_000
EXPIRE_FOR_S = 2.0
"""In one round: half a million lines of a batch whose window is over end within minutes, and what is due is told
meanwhile."""
ROUNDS = 2
"""So many rounds' work is told: a round may be late. Who is done with it sooner asks for more (`worker.feeder`); what
is told far ahead only fills the workers' buffers, and is given back a row at a time."""
UNKNOWN_ROUTE_WINDOW = 128
"""For a route that no live worker has met yet."""
MOVED_AHEAD = 4
"""A worker that is done with what was moved to a route cannot ask for more of it: it gets so many windows at once."""


class Announcer:
    """Any number may run: an advisory lock lets one announce at a time, and the first settlement of a task wins.

    `clock` is monotonic seconds."""

    def __init__(
        self,
        database: Database,
        publisher: Publisher,
        *,
        rules: Rules,
        mover: Mover | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._clock = clock
        self._database = database
        self._publisher = publisher
        self._rules = rules
        self._mover = mover
        self._sweep = Sweep(database)
        self._turn: dict[Queue, UUID | None] = {}
        """The feed of each queue that had its turn last."""
        self._nobodys: dict[Queue, datetime] = {}
        """When a queue's route was last one that nobody could call: hints of before were taken by nobody."""

    async def announce(self) -> int:
        """One round. Returns how many tasks were announced. Commits before it publishes."""
        async with announce.turn(self._database) as connection:
            if connection is None:
                return 0
            workers = await leases.alive(connection)
            stuck = self._mover.stuck(workers) if self._mover else {}
            wanted, leaving, absent = await self._wanted(connection, workers, stuck)
            found = await announce.take_due(
                connection,
                wanted,
                now=datetime.now(UTC),
                prices=self._rules.prices,
                after=self._turn,
                leaving=leaving,
                lost={queue: at for queue, at in self._nobodys.items() if queue not in leaving},
            )
            self._turn |= {queue: taken.last for queue, taken in found.items()}
            self._nobodys |= dict.fromkeys((*leaving, *absent), datetime.now(UTC))
        told = {queue: taken.ids for queue, taken in found.items() if queue not in leaving}
        self._publish(told)
        moved = await self._move({queue: found[queue].ids for queue in leaving}, stuck)
        self._publish(moved)
        return sum(map(len, (*told.values(), *moved.values())))

    async def _wanted(
        self, connection: ReadConnection, workers: list[leases.WorkerRow], stuck: StuckBy
    ) -> tuple[dict[Queue, int], set[Queue], set[Queue]]:
        """The window of each queue that is served, or left; the queues whose tasks go to other routes; and those whose
        model is in no worker."""
        served = {lane for worker in workers for lane in worker.lanes}
        windows = _windows(workers)
        wanted, leaving, absent = {}, set(), set()
        for queue in await queues.read(connection):
            targets = self._mover.targets(queue, stuck=stuck) if self._mover else ()
            if targets:
                wanted[queue] = _window(windows, targets)
                leaving.add(queue)
            elif _is_absent(queue, stuck):
                absent.add(queue)
            elif queue.lane in served:  # elsewhere its messages would only pile up in the broker
                wanted[queue] = windows.get(queue.route, UNKNOWN_ROUTE_WINDOW)
        return wanted, leaving, absent

    async def _move(self, leaving: Mapping[Queue, Sequence[UUID]], stuck: StuckBy) -> dict[Queue, list[UUID]]:
        moved: dict[Queue, list[UUID]] = {}
        for priority, away in stuck.items():
            ids = [i for queue, found in leaving.items() if priority_of(queue.lane) is priority for i in found]
            if self._mover and ids:
                moved |= await self._mover.move(ids, stuck=away)
        return moved

    def _publish(self, told: Mapping[Queue, Sequence[UUID]]) -> None:
        for lane, hints in announce.by_lane(told).items():
            self._publisher.announce(lane, hints)

    async def expire(self) -> list[UUID]:
        """End queued tasks whose deadline has passed, for up to EXPIRE_FOR_S. Returns them."""
        until_s = self._clock() + EXPIRE_FOR_S
        ended: list[UUID] = []
        while True:
            async with self._database.read() as connection:
                late = await announce.overdue(
                    connection, now=datetime.now(UTC), limit=EXPIRE_AT_ONCE, without=self._sweep.aside()
                )
            ended += [r.settlement.task_id for r in await self._sweep.settle(late, _expired) if r.task]
            if len(late) < EXPIRE_AT_ONCE or self._clock() >= until_s:
                return ended


def _is_absent(queue: Queue, stuck: StuckBy) -> bool:
    """Whether its model is in no worker: to tell those of another model would only have it given back."""
    return place_of(queue.lane) == "local" and queue.route in stuck.get(priority_of(queue.lane), ())


def _windows(workers: list[leases.WorkerRow]) -> dict[str, int]:
    """Route -> hints to give in one round: what it settles in ROUNDS, at least twice its free slots."""
    settled: dict[str, int] = {}
    free: dict[str, int] = {}
    for worker in workers:
        for route, load in worker.load.items():
            settled[route] = settled.get(route, 0) + load.settled
            free[route] = free.get(route, 0) + load.free
    lately = ROUNDS * EVERY_S / RATE_WINDOW_S
    return {route: max(round(lately * settled[route]), 2 * free[route], 1) for route in settled}


def _window(windows: Mapping[str, int], routes: Iterable[str]) -> int:
    """Of a queue whose tasks go to `routes`. They are moved about as fast as they can be taken there: what still waits
    when its own route comes back stays with it."""
    return min(MOVED_AT_ONCE, MOVED_AHEAD * max(windows.get(route, UNKNOWN_ROUTE_WINDOW) for route in routes))


def _expired(late: Overdue) -> Settlement:
    return Settlement(
        task_id=late.id,
        fence=late.fence,
        attempt=late.attempt,
        held=TaskState.QUEUED,
        outcome=AttemptOutcome.ABANDONED,
        state=TaskState.EXPIRED,
        error_code="expired",
        error_message="expires_at passed before a worker could run it",
    )
