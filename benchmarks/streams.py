"""Streams: T1 how much later a delta comes through Tollgate than straight from the upstream, T2 a thousand at once."""

from __future__ import annotations

import asyncio
import contextlib
import re
import statistics
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

import aiohttp

from benchmarks import litellm
from benchmarks.installation import ROOT, Installation
from benchmarks.report import Figure
from benchmarks.submits import BODY

V4 = "/api/paas/v4/chat/completions"
STAMP = re.compile(rb"\d{10}\.\d{6}")
STREAMS = 50
MANY = 1_000
GAP_S = 0.05
MANY_GAP_S = 2.0


@dataclass(slots=True)
class Read:
    """Milliseconds of all deltas of some streams, and to the first one of each."""

    later_ms: list[float] = field(default_factory=list)
    first_ms: list[float] = field(default_factory=list)


def latency(*, runs: int, seconds: float) -> list[Figure]:
    """T1: 50 streams of 20 deltas a second: added to a delta, and to the first one; LiteLLM's proxy the same way."""
    found: dict[str, list[tuple[float, float]]] = {}
    with Installation(max_in_flight=1000) as at, contextlib.ExitStack() as stack:
        _stamping(at, gap_s=GAP_S, chunks=int(seconds / GAP_S))
        at.gateway()
        at.worker()
        at.beat()
        ways = {
            "direct": (at.simulator_url + V4, litellm.UPSTREAM_KEY),
            "tollgate": (at.gateway_url + V4, at.key),
        }
        if command := litellm.command():
            address = stack.enter_context(litellm.proxy(command, at))
            ways["litellm"] = (f"{address}/v1/chat/completions", litellm.KEY)
        for run in range(runs + 1):
            for way, (url, key) in ways.items():
                read = asyncio.run(_read(url, key, streams=STREAMS))
                if run:  # the first warms up, and lets the worker learn that the upstream takes so many
                    found.setdefault(way, []).append(
                        (statistics.median(read.later_ms), statistics.median(read.first_ms))
                    )
    return _figures(found)


def _figures(found: Mapping[str, list[tuple[float, float]]]) -> list[Figure]:
    def added(way: str, which: int) -> list[float]:
        return [one[which] - direct[which] for one, direct in zip(found[way], found["direct"], strict=True)]

    figures = [
        Figure(
            name="T1", what="added to a delta of 50 streams, median", values=added("tollgate", 0), unit="ms", target=5,
            sense="<=",
        ),
        Figure(name="T1", what="added to the first delta, median", values=added("tollgate", 1), unit="ms"),
    ]  # fmt: skip
    if "litellm" in found:
        figures += [
            Figure(name="T1", what="LiteLLM's proxy adds to a delta, median", values=added("litellm", 0), unit="ms"),
            Figure(name="T1", what="LiteLLM's proxy adds to the first", values=added("litellm", 1), unit="ms"),
        ]
    return figures


def many(*, runs: int, seconds: float) -> list[Figure]:
    """T2: 1,000 open streams on one gateway process: its memory, and how late their deltas are."""
    memory, later = [], []
    with Installation(max_in_flight=2 * MANY) as at:
        _stamping(at, gap_s=MANY_GAP_S, chunks=int(max(seconds, 12) / MANY_GAP_S))
        gateway = at.gateway()
        at.worker("--concurrency", str(2 * MANY))
        at.beat()
        for _ in range(runs):
            memory.append(0.0)

            def look() -> None:
                memory[-1] = max(memory[-1], gateway.memory_mb)

            read = asyncio.run(_read(at.gateway_url + V4, at.key, streams=MANY, look=look))
            later.append(statistics.median(read.later_ms))
    return [
        Figure(
            name="T2", what="memory of a gateway with 1,000 streams", values=memory, unit="MB", target=300, sense="<="
        ),
        Figure(name="T2", what="a delta of 1,000 streams is late by, median", values=later, unit="ms"),
    ]


def _stamping(at: Installation, *, gap_s: float, chunks: int) -> None:
    command = (sys.executable, "-m", "benchmarks.stamping", str(gap_s), str(chunks))
    at.simulator_url = at.spawn("stamping", *command, PYTHONPATH=str(ROOT)).said("http://")
    at.environment["TOLLGATE_ZHIPU_BASE_URL"] = f"{at.simulator_url}/api/paas/v4"


async def _read(url: str, key: str, *, streams: int, look: object = None) -> Read:
    read = Read()
    timeout = aiohttp.ClientTimeout(total=120)
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), timeout=timeout) as session:
        reading = [asyncio.create_task(_read_one(session, url, key, read)) for _ in range(streams)]
        while callable(look) and not all(one.done() for one in reading):
            await asyncio.sleep(1)
            look()
        await asyncio.gather(*reading)
    return read


async def _read_one(session: aiohttp.ClientSession, url: str, key: str, read: Read) -> None:
    """Raises SystemExit where the answer is no stream."""
    started, first = time.time(), True
    headers = {"Authorization": f"Bearer {key}"}
    async with session.post(url, json={**BODY, "stream": True}, headers=headers) as response:
        if response.status != 200:
            raise SystemExit(f"{url}: {response.status} {(await response.text())[:500]}")
        async for part in response.content.iter_any():
            now = time.time()
            for stamp in STAMP.findall(part):
                read.later_ms.append(1000 * (now - float(stamp)))
                if first:
                    read.first_ms.append(1000 * (now - started))
                    first = False
    if first:
        raise SystemExit(f"{url}: a stream without a delta")
