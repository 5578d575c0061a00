"""Ids that messages brought and no slot has taken yet, by route and priority. Bounded, without repeats."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from uuid import UUID

from tollgate.domain.states import Priority

CAPACITY = 5_000
"""Ids of one route and priority: some seconds of work at full speed. What does not fit is given back to the
store. Each has room of its own, so that one slow model never keeps another's ids out, nor bulk an interactive one."""


class Buffer:
    """Belongs to the engine's loop."""

    def __init__(self, capacity: int = CAPACITY) -> None:
        self._capacity = capacity
        self._queues: dict[tuple[str, Priority], deque[UUID]] = {}
        self._held: set[UUID] = set()

    def __len__(self) -> int:
        return len(self._held)

    def offer(self, route: str, priority: Priority, ids: Iterable[UUID]) -> list[UUID]:
        """Hold those not held yet; returns those that do not fit."""
        queue = self._queues.setdefault((route, priority), deque())
        refused = []
        for task_id in ids:
            if task_id in self._held:
                continue
            if len(queue) >= self._capacity:
                refused.append(task_id)
                continue
            self._held.add(task_id)
            queue.append(task_id)
        return refused

    def take(self, route: str, priority: Priority, count: int) -> list[UUID]:
        """Up to `count`, in the order they came."""
        queue = self._queues.get((route, priority), deque())
        taken = [queue.popleft() for _ in range(min(count, len(queue)))]
        self._held.difference_update(taken)
        return taken

    def routes(self) -> list[str]:
        """Those with ids, sorted."""
        return sorted({route for (route, _), queue in self._queues.items() if queue})

    def waiting(self, route: str, priority: Priority) -> int:
        return len(self._queues.get((route, priority), ()))

    def by_route(self) -> dict[str, int]:
        """Route -> ids that wait."""
        waiting: dict[str, int] = {}
        for (route, _), queue in self._queues.items():
            waiting[route] = waiting.get(route, 0) + len(queue)
        return waiting

    def drop(self, route: str) -> list[UUID]:
        """Let go of a route's ids; returns them."""
        return [task_id for priority in Priority for task_id in self.take(route, priority, self._capacity)]

    def clear(self) -> list[UUID]:
        """Let go of everything; returns it."""
        return [task_id for route in self.routes() for task_id in self.drop(route)]
