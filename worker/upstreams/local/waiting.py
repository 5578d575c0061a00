"""Requests that wait for a slot: the urgent first, each kind in the order it came, and never more than so many."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from worker.upstreams.local.requests import Request


class Waiting:
    """Not for several threads at once: the engine's lock guards it."""

    def __init__(self, room: int) -> None:
        self._room = room
        self._urgent: deque[Request] = deque()
        self._others: deque[Request] = deque()

    def __len__(self) -> int:
        return len(self._urgent) + len(self._others)

    @property
    def full(self) -> bool:
        return len(self) >= self._room

    def add(self, request: Request) -> None:
        (self._urgent if request.urgent else self._others).append(request)

    def next(self) -> Request | None:
        queue = self._urgent or self._others
        return queue.popleft() if queue else None

    def take(self, which: Callable[[Request], bool]) -> list[Request]:
        """Those that `which` holds of, out of their order."""
        taken = []
        for queue in (self._urgent, self._others):
            gone = [request for request in queue if which(request)]
            for request in gone:
                queue.remove(request)
            taken += gone
        return taken
