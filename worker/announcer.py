"""Tells workers what is due: new tasks whose hint was lost or held back, retries, what dead workers held.

Plain form: each queue (route and lane) that a live worker serves gets a window of hints by what its route
settles in two rounds, at least twice its free slots, so that one slow or paused model never starves another.
Inside a window its feeds (batches, projects) take turns.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from uuid import UUID

from tollgate.broker.publisher import Publisher
from tollgate.domain.settling import Settlement
from tollgate.domain.states import AttemptOutcome, TaskState
from tollgate.store import announce, leases
from tollgate.store.announce import Overdue, Queue
from tollgate.store.database import Database
from worker.rerouting import MOVED_AT_ONCE, Mover
from worker.slots import RATE_WINDOW_S
from worker.sweeping import Sweep

log = logging.getLogger("tollgate.announcer")

EVERY_S = 2.0
"""From one round to the next."""
EXPIRE_AT_ONCE = 1_000
ROUNDS = 2
"""So many rounds' work is told: a round may be late. Who is done with it sooner asks for more (`worker.feeder`); what
is told far ahead only fills the workers' buffers, and is given back a row at a time."""
UNKNOWN_ROUTE_WINDOW = 128
"""For a route that no live worker has met yet."""
MOVED_AHEAD = 4
"""A worker that is done with what was moved to a route cannot ask for more of it: it gets so many windows at once."""


class Announcer:
    """Any number may run: an advisory lock lets one announce at a time, and the first settlement of a task wins."""

    def __init__(self, database: Database, publisher: Publisher, *, mover: Mover | None = None) -> None:
        self._database = database
        self._publisher = publisher
        self._mover = mover
        self._sweep = Sweep(database)
        self._turn: dict[Queue, UUID | None] = {}
        """The feed of each queue that had its turn last."""

    async def announce(self) -> int:
        """One round. Returns how many tasks were announced. Commits before it publishes."""
        now = datetime.now(UTC)
        told: dict[Queue, list[UUID]] = {}
        leaving: list[UUID] = []
        async with announce.turn(self._database) as connection:
            if connection is None:
                return 0
            workers = await leases.alive(connection)
            served = {lane for worker in workers for lane in worker.lanes}
            windows, stuck = _windows(workers), leases.stuck_routes(workers)
            for queue in await announce.queues(connection):
                if queue.lane not in served:
                    continue  # its messages would only pile up in the broker
                targets = self._mover.targets(queue.route, stuck=stuck) if self._mover else ()
                window = _window(windows, targets) if targets else windows.get(queue.route, UNKNOWN_ROUTE_WINDOW)
                after = self._turn.get(queue)
                taken = await announce.take_due(connection, queue, limit=window, now=now, after=after)
                self._turn[queue] = taken.last
                if targets:
                    leaving += taken.ids
                else:
                    told[queue] = list(taken.ids)
        self._publish(told)
        moved = await self._mover.move(leaving, stuck=stuck) if self._mover and leaving else {}
        self._publish(moved)
        return sum(map(len, (*told.values(), *moved.values())))

    def _publish(self, told: Mapping[Queue, Sequence[UUID]]) -> None:
        for lane, hints in announce.by_lane(told).items():
            self._publisher.announce(lane, hints)

    async def expire(self) -> list[UUID]:
        """End queued tasks whose deadline has passed. Returns them."""
        async with self._database.read() as connection:
            late = await announce.overdue(
                connection, now=datetime.now(UTC), limit=EXPIRE_AT_ONCE, without=self._sweep.aside()
            )
        return [r.settlement.task_id for r in await self._sweep.settle(late, _expired) if r.task]


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
