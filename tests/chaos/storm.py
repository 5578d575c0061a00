"""Faults at random, one every 1 to 4 s: who is killed, frozen, cut off or flushed is decided by the seed."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

from tests.acceptance.processes import Process
from tests.chaos.deployment import MODELS, SERVES, Deployment
from tollgate.broker.celery_app import RUN, create_celery
from tollgate.domain.ids import new_id
from tollgate.domain.lanes import LANES

WORKERS = 3
BEATS = 2
SHORT_FREEZE_S = (1.0, 8.0)
LONG_FREEZE_S = 25.0
"""Longer than the 20 s after which a silent worker is dead: its tasks run elsewhere when it wakes."""
OUTAGE_S = (0.5, 6.0)
EVERY_S = (1.0, 4.0)
FAULTS: tuple[dict[str, float], ...] = (
    {},
    {"rate_limit": 0.3},
    {"server_error": 0.1, "garbage": 0.05},
    {"cut": 0.1, "hang": 0.02},
    {"rate_limit": 0.1, "server_error": 0.03, "garbage": 0.02, "cut": 0.03, "network_error": 0.03, "sensitive": 0.02},
)


class Storm:
    """Keeps the numbers of processes: what it kills it starts again. `counts`: what it did, by kind."""

    def __init__(self, town: Deployment, *, seed: str) -> None:
        self._town = town
        self._random = random.Random(seed)
        self._workers = [town.start_worker() for _ in range(WORKERS)]
        self._beats = [town.start_beat() for _ in range(BEATS)]
        self._gateway = town.start_gateway()
        self._later: list[tuple[float, Callable[[], object]]] = []
        self._app = create_celery(town.redis.url, lanes=LANES)
        self.counts: Counter[str] = Counter()

    @property
    def processes(self) -> list[Process]:
        return [*self._workers, *self._beats, self._gateway]

    def rage(self, seconds: float) -> None:
        """For so long. Raises AssertionError if a process ended that nobody killed."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            self._strike()
            until_next = time.monotonic() + self._random.uniform(*EVERY_S)
            while (left_s := until_next - time.monotonic()) > 0:
                time.sleep(min(left_s, 0.25))  # the storm's own pace
                self._do_what_is_due()
            self._supervise()

    def calm(self) -> None:
        """Every fault is over, every process there."""
        self._later.clear()
        self._town.heal()
        self._supervise()
        self._app.close()

    def _strike(self) -> None:
        strikes: dict[Callable[[], None], int] = {
            self._kill_worker: 4,
            self._stop_worker: 2,
            self._freeze_worker: 3,
            self._kill_beat: 2,
            self._kill_gateway: 2,
            self._flush: 2,
            self._stop_redis: 2,
            self._restart_postgres: 2,
            self._cut: 3,
            self._hang: 2,
            self._repeat_messages: 3,
            self._spoil_upstream: 3,
        }
        strike = self._random.choices(list(strikes), weights=list(strikes.values()))[0]
        self.counts[strike.__name__.strip("_").replace("_", " ")] += 1
        strike()

    def _in(self, seconds: float, what: Callable[[], object]) -> None:
        self._later.append((time.monotonic() + seconds, what))

    def _do_what_is_due(self) -> None:
        now = time.monotonic()
        due, self._later = [x for x in self._later if x[0] <= now], [x for x in self._later if x[0] > now]
        for _, what in due:
            what()

    def _supervise(self) -> None:
        """As systemd or Docker would: what could not start, for want of a database, is started again."""
        town = self._town
        self._workers = [self._alive(process, town.start_worker) for process in self._workers]
        self._beats = [self._alive(process, town.start_beat) for process in self._beats]
        self._gateway = self._alive(self._gateway, town.start_gateway)

    def _alive(self, process: Process, start: Callable[[], Process]) -> Process:
        """Raises AssertionError for one that ran, and ended though nobody killed it."""
        if process.exit_code is None:
            return process
        told = process.output
        started_once = SERVES.search(told) is not None
        assert not started_once, f"{process.command} ended by itself:\n{told[-4000:]}"
        assert "the database does not answer" in told, f"{process.command} did not start:\n{told[-4000:]}"
        self.counts["not started for want of a database"] += 1
        return start()

    def _kill_worker(self) -> None:
        victim = self._random.randrange(WORKERS)
        self._workers[victim].kill()
        self._workers[victim] = self._town.start_worker()

    def _stop_worker(self) -> None:
        """SIGTERM: it goes in its own time, and another one takes its place."""
        victim = self._random.randrange(WORKERS)
        self._workers[victim].ask_to_stop()
        self._workers[victim] = self._town.start_worker()

    def _freeze_worker(self) -> None:
        victim = self._workers[self._random.randrange(WORKERS)]
        seconds = LONG_FREEZE_S if self._random.random() < 0.3 else self._random.uniform(*SHORT_FREEZE_S)
        victim.freeze()
        self._in(seconds, victim.thaw)

    def _kill_beat(self) -> None:
        victim = self._random.randrange(BEATS)
        self._beats[victim].kill()
        self._beats[victim] = self._town.start_beat()

    def _kill_gateway(self) -> None:
        self._gateway.kill()
        self._gateway = self._town.start_gateway()

    def _flush(self) -> None:
        if self._town.redis.runs:
            with self._town.broker_client() as client:
                client.flushall()

    def _stop_redis(self) -> None:
        if self._town.redis.runs:
            self._town.redis.stop()
            self._in(self._random.uniform(*OUTAGE_S), self._town.redis.start)

    def _restart_postgres(self) -> None:
        if self._town.postgres.runs:
            self._town.postgres.stop(immediate=self._random.random() < 0.5)
            self._in(self._random.uniform(*OUTAGE_S), self._town.postgres.start)

    def _cut(self) -> None:
        proxy = self._random.choice((self._town.store, self._town.broker))
        if self._random.random() < 0.5:
            proxy.drop()
        else:
            proxy.cut()
            self._in(self._random.uniform(*OUTAGE_S), proxy.heal)

    def _hang(self) -> None:
        proxy = self._random.choice((self._town.store, self._town.broker))
        proxy.hang()
        self._in(self._random.uniform(*OUTAGE_S), proxy.heal)

    def _repeat_messages(self) -> None:
        """Known ids over and over in any order, on any lane, of any route, and ids that no task has."""
        if not (self._town.redis.runs and self._town.postgres.runs):
            return
        model, lane = self._random.choice(MODELS), self._random.choice(LANES)
        known = sorted(self._town.books().tasks)
        ids: list[Any] = [*known[-200:] * 3, *(new_id().hex for _ in range(5))]
        self._random.shuffle(ids)
        self._app.send_task(RUN, args=[lane, {f"zhipu/{model}": ids}], queue=lane, ignore_result=True)

    def _spoil_upstream(self) -> None:
        latency_s = self._random.choice((0.05, 0.3, 1.0))
        faults = {name: 0.0 for some in FAULTS for name in some} | self._random.choice(FAULTS)
        self._town.set_simulator(latency_s=latency_s, latency_jitter_s=latency_s / 2, faults=faults)
