"""Ids that messages brought and no slot has taken yet, by route and priority. Bounded, without repeats."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from uuid import UUID

from tollgate.domain.states import Priority

CAPACITY = 20_000
"""Some seconds of work at full speed. What does not fit is given back to the store."""


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
            if len(self._held) >= self._capacity:
                refused.append(task_id)
                continue
            self._held.add(task_id)
            queue.append(task_id)
        return refused

    def take(self, route: str, priority: Priority, count: int) -> list[UUID]:
        queue = self._queues.get((route, priority))
        taken = [queue.popleft() for _ in range(min(count, len(queue)))] if queue else []
        self._held.difference_update(taken)
        return taken

    def routes(self) -> set[str]:
        """Those with ids."""
        return {route for (route, _), queue in self._queues.items() if queue}

    def by_route(self) -> dict[str, int]:
        """Route -> ids that wait. Read by the lease's thread too: a snapshot is enough."""
        waiting: dict[str, int] = {}
        for (route, _), queue in list(self._queues.items()):
            waiting[route] = waiting.get(route, 0) + len(queue)
        return waiting

    def clear(self) -> list[UUID]:
        """Let go of everything; returns it."""
        dropped = list(self._held)
        self._queues.clear()
        self._held.clear()
        return dropped
