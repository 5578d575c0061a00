"""P: how often one worker asks for 10,000 open calls of ZhipuAI's asynchronous mode.

Reads for how long the simulator was not asked for the one least recently asked for: the longest round, told every
second. Nothing ends meanwhile: the upstream's latency is longer than the run.
"""

from __future__ import annotations

import time

from benchmarks.installation import Installation
from benchmarks.report import Figure

OPEN = 10_000
WATCH_S = 40
OPENED_WITHIN_S = 120


def rounds(*, runs: int, seconds: float) -> list[Figure]:  # noqa: ARG001 - once, and for long
    """P: 10,000 open calls of the asynchronous mode, polled by one worker."""
    with Installation(max_in_flight=2 * OPEN, mode="async") as at:
        at.simulator("--latency", "86400")
        worker = at.worker("--concurrency", str(2 * OPEN))
        at.beat()
        at.gateway()
        at.submit(OPEN)
        _wait_open(at)
        before, cpu_s, longest = _polls(at), worker.cpu_s, []
        for _ in range(WATCH_S):
            time.sleep(1)
            longest.append(float(at.simulator_stats()["longest_unasked_s"]))
        polls, cpu_s = _polls(at) - before, worker.cpu_s - cpu_s
        worker.kill()  # 10,000 calls are open: nobody waits for them
    return [
        Figure(name="P", what="10,000 open calls: the longest round", values=[max(longest)], unit="s", target=15,
               sense="<="),
        Figure(name="P", what="polls/s", values=[polls / WATCH_S]),
        Figure(name="P", what="CPU of the worker a poll", values=[1000 * cpu_s / polls], unit="ms"),
    ]  # fmt: skip


def _wait_open(at: Installation) -> None:
    """Until the upstream has them all."""
    until = time.monotonic() + OPENED_WITHIN_S
    while (found := int(at.simulator_stats()["processing"])) < OPEN:
        if time.monotonic() > until:
            raise SystemExit(f"only {found} of {OPEN} calls were submitted in {OPENED_WITHIN_S} s")
        time.sleep(0.5)


def _polls(at: Installation) -> int:
    return int(at.simulator_stats()["requests_by_endpoint"].get("async_result", 0))
