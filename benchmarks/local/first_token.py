"""How long a short prompt waits for its first token while rows decode and a long prompt is on its way in."""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from benchmarks.local import models
from benchmarks.report import Figure
from worker.upstreams.local.engine import Engine
from worker.upstreams.local.requests import Ended, Event, Request, Sampling

ROWS = 31
SLOTS = 40
LONG_TOKENS = 2000
SHORT_TOKENS = 32
PREFILL_TOKENS = 512
CONTEXT_TOKENS = 4096
LIMIT_S = 120.0
PHASES = (0.0, 0.35, 0.7)
"""When the short prompt comes: after so much of a step with a chunk in it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Times:
    """Seconds, all of the same run."""

    step: float
    chunk: float
    own: float
    waited: float

    @property
    def bound(self) -> float:
        return 2 * self.step + self.chunk + self.own


def waited(*, runs: int) -> list[Figure]:
    """L5: first token of a short prompt while 31 rows decode and a 2,000-token prompt arrives, on 100M parameters."""
    told = _Told()
    engine = Engine(
        models.glm_100m(),
        slots=SLOTS,
        context_tokens=CONTEXT_TOKENS,
        ends=frozenset(),
        deliver=told.deliver,
        prefill_tokens=PREFILL_TOKENS,
    )
    engine.start()
    try:
        for _ in range(ROWS):
            engine.submit(_request(16, CONTEXT_TOKENS - 16))
        told.wait(lambda: engine.stats().decoding == ROWS)
        times = [_once(engine, told, phase=PHASES[run % len(PHASES)]) for run in range(max(runs, len(PHASES)))]
    finally:
        engine.stop(0)
    return [
        Figure(
            name="L5",
            what="waited, of 2 steps + a chunk + its own prefill",
            values=[one.waited / one.bound for one in times],
            unit="x",
            target=1,
            sense="<=",
        ),
        *(
            Figure(name="L5", what=what, values=[1000 * getattr(one, name) for one in times], unit="ms")
            for what, name in (
                ("first token of the short prompt", "waited"),
                ("a step of 31 rows", "step"),
                ("a chunk of 512 tokens", "chunk"),
                ("prefill of the short prompt alone, 32 tokens", "own"),
            )
        ),
    ]


def _once(engine: Engine, told: _Told, *, phase: float) -> Times:
    """The parts are measured where they stand alone, between deliveries of the engine."""
    step = statistics.median(told.gaps(6))
    alone = _request(SHORT_TOKENS, 1)
    engine.submit(alone)
    told.wait(lambda: alone in told.first)
    own = told.before[alone]
    long = _request(LONG_TOKENS, 2)
    engine.submit(long)
    with_chunk = told.gaps(2)
    short = _request(SHORT_TOKENS, 1)
    time.sleep(phase * with_chunk[-1])
    asked_at = time.perf_counter()
    engine.submit(short)
    told.wait(lambda: short in told.first)
    at = told.first[short]
    told.wait(lambda: long in told.ended)
    return Times(step=step, chunk=max(with_chunk) - step, own=own, waited=at - asked_at)


def _request(prompt_tokens: int, max_tokens: int) -> Request:
    return Request(ids=[30] * prompt_tokens, max_tokens=max_tokens, sampling=Sampling(temperature=0))


class _Told:
    """When each delivery came."""

    def __init__(self) -> None:
        self.first: dict[Request, float] = {}
        self.before: dict[Request, float] = {}
        """From the delivery before to a request's first token."""
        self.ended: set[Request] = set()
        self._at: list[float] = []
        self._changed = threading.Condition()

    def deliver(self, events: Sequence[Event]) -> None:
        now = time.perf_counter()
        with self._changed:
            for event in events:
                if isinstance(event, Ended):
                    self.ended.add(event.request)
                elif event.request not in self.first:
                    self.first[event.request] = now
                    self.before[event.request] = now - self._at[-1] if self._at else 0.0
            self._at.append(now)
            self._changed.notify_all()

    def wait(self, holds: Callable[[], bool]) -> None:
        with self._changed:
            if not self._changed.wait_for(holds, LIMIT_S):
                raise TimeoutError("the engine told nothing more")

    def gaps(self, count: int) -> list[float]:
        """Between the next deliveries, the first of which may be of a step that runs already."""
        start = len(self._at)
        self.wait(lambda: len(self._at) >= start + count + 2)
        return [self._at[at + 1] - self._at[at] for at in range(start + 1, start + count + 1)]
