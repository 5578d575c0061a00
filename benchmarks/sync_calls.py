"""S5: what a synchronous call costs beside the upstream's own time: through Tollgate, and through LiteLLM's proxy."""

from __future__ import annotations

import contextlib
import http.client
import json
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from urllib.parse import urlsplit

from benchmarks import litellm
from benchmarks.installation import Installation
from benchmarks.report import Figure
from benchmarks.submits import BODY

LATENCY_S = 0.05
TURN_CALLS = 20
"""Calls of one way in a row: what a way still does after its answer is then done in its own turn, but for the last."""


class Way:
    """One way to the upstream, and one client of it: the standard library's, its connection kept alive."""

    def __init__(self, url: str, *, key: str) -> None:
        parts = urlsplit(url)
        self._path = parts.path
        self._connection = http.client.HTTPConnection(parts.netloc, timeout=60)
        self._body = json.dumps(BODY).encode()
        self._headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}

    def call_ms(self) -> float:
        """The time of one call. Raises SystemExit where the answer is no success."""
        started = time.perf_counter()
        self._connection.request("POST", self._path, self._body, self._headers)
        response = self._connection.getresponse()
        answer = response.read()
        taken_ms = 1000 * (time.perf_counter() - started)
        if response.status != 200:
            raise SystemExit(f"{self._path}: {response.status} {answer[:500].decode(errors='replace')}")
        return taken_ms


def added(*, runs: int, seconds: float) -> list[Figure]:
    """S5: what is added to a synchronous call of 50 ms, one client; LiteLLM's proxy the same way."""
    ours, worst, theirs = [], [], []
    with Installation() as at, contextlib.ExitStack() as stack:
        at.simulator("--latency", str(LATENCY_S))
        at.gateway()
        at.worker()
        at.beat()
        v4 = "/api/paas/v4/chat/completions"
        ways = {
            "direct": Way(at.simulator_url + v4, key=litellm.UPSTREAM_KEY),
            "tollgate": Way(at.gateway_url + v4, key=at.key),
        }
        if command := litellm.command():
            address = stack.enter_context(litellm.proxy(command, at))
            ways["litellm"] = Way(f"{address}/v1/chat/completions", key=litellm.KEY)
        else:
            print("LiteLLM is not installed, so S5 goes without it: benchmarks/peers/litellm", file=sys.stderr)
        _run(ways, seconds=1)
        for _ in range(runs):
            taken_ms = _run(ways, seconds=seconds)
            direct = statistics.median(taken_ms["direct"])
            ours.append(statistics.median(taken_ms["tollgate"]) - direct)
            worst.append(_p99(taken_ms["tollgate"]) - direct)
            if "litellm" in taken_ms:
                theirs.append(statistics.median(taken_ms["litellm"]) - direct)
    return _figures(ours, worst, theirs)


def _figures(ours: Sequence[float], worst: Sequence[float], theirs: Sequence[float]) -> list[Figure]:
    found = [
        Figure(name="S5", what="added to a synchronous call, median", values=ours, unit="ms", target=10, sense="<="),
        Figure(name="S5", what="added to a synchronous call, p99", values=worst, unit="ms"),
    ]
    if not theirs:
        return found
    ratios = [a / b for a, b in zip(ours, theirs, strict=True)]
    return [
        *found,
        Figure(name="S5", what="LiteLLM's proxy adds, median", values=theirs, unit="ms"),
        Figure(name="S5", what="added, against LiteLLM's", values=ratios, unit="x", target=1, sense="<="),
    ]


def _run(ways: Mapping[str, Way], *, seconds: float) -> dict[str, list[float]]:
    """The calls of each way, in turns, for so long each."""
    taken_ms: dict[str, list[float]] = {name: [] for name in ways}
    until = time.monotonic() + seconds * len(ways)
    while time.monotonic() < until:
        for name, way in ways.items():
            taken_ms[name] += [way.call_ms() for _ in range(TURN_CALLS)]
    return taken_ms


def _p99(values: Sequence[float]) -> float:
    return statistics.quantiles(values, n=100, method="inclusive")[98]
