"""Sends tasks that wait for a route that nobody can call to their model's next one. Part of the beat's rounds.

No try tells of such a route: while every key of an upstream is paused, or no worker has its model, nothing of it is
claimed. What each worker can call stands in its heartbeat. Two movers, or a mover and a worker, may take the same task:
the first settlement wins.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from uuid import UUID

from tollgate.domain import fallbacks, reach
from tollgate.domain.lanes import priority_of
from tollgate.domain.settling import Settlement
from tollgate.domain.states import AttemptOutcome, Priority, TaskState
from tollgate.store import leases, price_list, waiting
from tollgate.store.database import Database
from tollgate.store.queues import Queue
from tollgate.store.waiting import Waiting
from worker.billing import Rules
from worker.detours import Ways, ways_of
from worker.sweeping import Sweep

log = logging.getLogger("tollgate.rerouting")

MOVED_AT_ONCE = 1_000
"""Tasks of a queue that one round moves, at most."""
StuckBy = Mapping[Priority, Collection[str]]
"""The routes that nobody can call for tasks of a priority."""


class Mover:
    """One beat's. `rules` hold the catalog, and the prices that are reserved by."""

    def __init__(self, database: Database, rules: Rules) -> None:
        self._database = database
        self._rules = rules
        self._sweep = Sweep(database)

    def stuck(self, workers: Collection[leases.WorkerRow]) -> StuckBy:
        """The routes that none of `workers` can call."""
        return {priority: reach.stuck(workers, self._rules.catalog, priority) for priority in Priority}

    def targets(self, queue: Queue, *, stuck: StuckBy) -> frozenset[str]:
        """Where the tasks of `queue` go now."""
        return fallbacks.targets(self._rules.catalog, queue.route, stuck=stuck[priority_of(queue.lane)])

    async def move(self, ids: Sequence[UUID], *, stuck: Collection[str]) -> dict[Queue, list[UUID]]:
        """Those of `ids` that could be moved, where they wait now: their hints are the caller's to give.

        Others stay: the upstream has their call, their model has no fallback, no budget has room for it, or they are
        lines of a batch that runs here only. Raises StoreUnavailableError."""
        if not ids:
            return {}
        async with self._database.read() as connection:
            found = await waiting.read(connection, ids)
            self._rules.prices = await price_list.load(connection)
        leaving = {task.id: made for task in found if (made := self._leaving(task, stuck)) is not None}
        resolved = await self._sweep.settle([task for task in found if task.id in leaving], lambda t: leaving[t.id])
        moved: dict[Queue, list[UUID]] = {}
        for settled in (r.settlement for r in resolved if r.task):
            if settled.reroute is not None:
                queue = Queue(route=settled.reroute.route, lane=settled.reroute.lane)
                moved.setdefault(queue, []).append(settled.task_id)
        for queue, there in moved.items():
            log.info("tasks go to a fallback", extra={"to": queue.route, "lane": queue.lane, "tasks": len(there)})
        return moved

    def _leaving(self, task: Waiting, stuck: Collection[str]) -> Settlement | None:
        ways = ways_of(task, self._rules.catalog, blocked=lambda route: route in stuck)
        if ways is None or task.bought:
            return None
        step = fallbacks.after_pause(ways.model, task.route, stuck=stuck)
        return self._settlement(task, ways, step) if step is not None else None

    def _settlement(self, task: Waiting, ways: Ways, step: fallbacks.Step) -> Settlement:
        """The attempt that was refused there is closed with what was said of it; where none is begun, none is."""
        now, attempted = datetime.now(UTC), task.attempted
        leaving = Settlement(
            task_id=task.id,
            fence=task.fence,
            attempt=task.attempt,
            held=TaskState.QUEUED,
            outcome=AttemptOutcome.OPEN,
            state=TaskState.QUEUED,
            not_before=now,
            hinted=True,
            counts_as_try=False,
            reroute=ways.reroute(step, rules=self._rules, now=now),
        )
        if attempted is None:
            return leaving
        return replace(
            leaving,
            outcome=AttemptOutcome.FAILED,
            http_status=attempted.http_status,
            error_code=attempted.error_code,
            error_message=attempted.error_message,
        )
