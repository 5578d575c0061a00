"""S4: a thousand calls in flight at an upstream that takes a second, in one worker process."""

from __future__ import annotations

import subprocess
import sys

from benchmarks.installation import ROOT, Installation
from benchmarks.report import Figure, ratio

IN_FLIGHT = 1_000
UPSTREAM_S = 1.0
ROUNDS = 18
RAMP = 0.4
"""So much of the tasks ends while the worker still learns how many calls the upstream takes: not counted here."""
CLOCKS = f"""
SELECT extract(epoch FROM max(ended_at) - percentile_disc({RAMP}) WITHIN GROUP (ORDER BY ended_at)) FROM attempts
"""


def finished(*, runs: int, seconds: float) -> list[Figure]:  # noqa: ARG001 - so many rounds take their time
    """S4: 1,000 calls of 1 s in flight, one worker: finished/s, and its memory."""
    ours, bare, memory = [], [], []
    for _ in range(runs):
        with Installation(max_in_flight=2 * IN_FLIGHT) as at:
            at.simulator("--latency", str(UPSTREAM_S))
            at.gateway()
            at.beat()
            at.submit(IN_FLIGHT * ROUNDS)
            bare.append(_bare(at))
            worker = at.worker("--concurrency", str(IN_FLIGHT))
            at.wait_settled(IN_FLIGHT * ROUNDS // 2)
            memory.append(worker.memory_mb)
            at.wait_settled(IN_FLIGHT * ROUNDS)
            ours.append((1 - RAMP) * IN_FLIGHT * ROUNDS / float(at.scalar(CLOCKS)))
    return [
        Figure(name="S4", what="a bare aiohttp loop with 1,000 calls in flight, finished/s", values=bare),
        Figure(name="S4", what="one worker with 1,000 calls in flight, finished/s", values=ours),
        ratio("S4", "the worker against the ideal 1,000/s", ours, [IN_FLIGHT / UPSTREAM_S] * runs, target=0.75),
        ratio("S4", "the worker against the bare loop", ours, bare, target=0.9),
        Figure(name="S4", what="memory of the worker", values=memory, unit="MB", target=250, sense="<="),
    ]


def _bare(at: Installation) -> float:
    """Finished/s of `benchmarks.bare_calls` at the same simulator."""
    command = [
        sys.executable, "-m", "benchmarks.bare_calls", f"{at.simulator_url}/api/paas/v4/chat/completions",
        str(IN_FLIGHT), str(IN_FLIGHT * ROUNDS),
    ]  # fmt: skip
    done = subprocess.run(
        command, env={**at.environment, "PYTHONPATH": str(ROOT)}, check=True, capture_output=True, text=True
    )
    return float(done.stdout)
