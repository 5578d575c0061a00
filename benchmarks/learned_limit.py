"""Learned concurrency: an upstream that refuses what is over its hidden limit, 50 calls of 1 s, then 25, then 100."""

from __future__ import annotations

import json
import statistics
import time

import httpx2

from benchmarks.installation import Installation
from benchmarks.report import Figure

LIMITS = (50, 25, 100)
TASKS = 20_000
LEARN_S = 30.0
"""Until then it may still learn: the promise is of what follows."""
LOOK_EVERY_S = 0.1


def limits(*, runs: int, seconds: float) -> list[Figure]:  # noqa: ARG001 - once is three minutes
    """L: mean in flight against a hidden limit, and what was refused, once it had 30 s to learn."""
    found = []
    with Installation(max_in_flight=1000) as at:
        at.simulator("--latency", "1")
        at.beat()
        at.gateway()
        at.submit(TASKS)
        _allow(at, LIMITS[0])
        at.worker()
        for limit in LIMITS:
            _allow(at, limit)
            time.sleep(LEARN_S)
            mean, refused = _watch(at, LEARN_S)
            of = f"at a hidden limit of {limit}"
            found += [
                Figure(name="L", what=f"mean in flight {of}, as a share of it", values=[mean / limit], target=0.8),
                Figure(name="L", what=f"refused calls {of}", values=[100 * refused], unit="%", target=5, sense="<="),
            ]
    return found


def _allow(at: Installation, limit: int) -> None:
    body = json.dumps({"max_in_flight": limit})
    httpx2.put(f"{at.simulator_url}/simulator/settings", content=body).raise_for_status()


def _watch(at: Installation, seconds: float) -> tuple[float, float]:
    """Mean calls in flight, and the share of calls that were refused."""
    before, until, in_flight = at.simulator_stats(), time.monotonic() + seconds, []
    while time.monotonic() < until:
        in_flight.append(int(at.simulator_stats()["in_flight"]))
        time.sleep(LOOK_EVERY_S)
    after = at.simulator_stats()
    calls = after["requests"] - before["requests"]
    refused = sum(after["refusals"].values()) - sum(before["refusals"].values())
    return statistics.mean(in_flight), refused / calls
