"""Counts what came in, what went wrong, and how much runs at once. Shown by GET /simulator/stats."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from tollgate.simulator.codes import RefusalError


class Meter:
    """Plain counters; the simulator runs on one event loop, so nothing needs a lock.

    In flight is every call that the model works on: direct calls until their last byte, and async tasks until they
    end. A refused call, a replay and a poll are not.
    """

    __slots__ = ("faults", "in_flight", "peak_in_flight", "processing", "refusals", "requests")

    def __init__(self) -> None:
        self.requests: Counter[str] = Counter()
        """Endpoint -> requests received."""
        self.faults: Counter[str] = Counter()
        """Kind of fault -> how many befell a call."""
        self.refusals: Counter[str] = Counter()
        """Business code, or "http_429" and the like -> calls refused with it, for whatever reason."""
        self.in_flight = 0
        self.peak_in_flight = 0
        self.processing = 0
        """Async tasks among `in_flight`."""

    def enter(self, *, limit: int | None) -> None:
        """One more in flight; raises RefusalError 1302 where `limit` are already."""
        if limit is not None and self.in_flight >= limit:
            raise RefusalError("1302")
        self.in_flight += 1
        self.peak_in_flight = max(self.peak_in_flight, self.in_flight)

    def leave(self) -> None:
        """One less in flight."""
        self.in_flight -= 1

    @contextmanager
    def occupied(self, *, limit: int | None) -> Iterator[None]:
        """In flight for as long as the block runs."""
        self.enter(limit=limit)
        try:
            yield
        finally:
            self.leave()

    def as_json(self) -> dict[str, object]:
        """As GET /simulator/stats shows it."""
        return {
            "requests": sum(self.requests.values()),
            "requests_by_endpoint": dict(self.requests),
            "faults": dict(self.faults),
            "refusals": dict(self.refusals),
            "in_flight": self.in_flight,
            "peak_in_flight": self.peak_in_flight,
            "processing": self.processing,
        }
