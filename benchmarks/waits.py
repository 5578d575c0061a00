"""Waiting: W 5,000 clients wait on one gateway process, each for a task of its own."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime

import aiohttp
import httpx2

from benchmarks.installation import Installation, Process
from benchmarks.report import Figure

CLIENTS = 5_000
IDLE_S = 6.0
"""Everybody waits for so long before anything ends: three of the gateway's looks at the store."""
CONNECTING_S = 60.0


@dataclass(slots=True)
class Waited:
    """Of one run."""

    late_ms: list[float] = field(default_factory=list)
    """From a task's end, as the store has it, to its waiting client."""
    memory_mb: float = 0.0
    idle_cpu: float = 0.0
    """Of one core, while everybody waits."""


def many(*, runs: int, seconds: float) -> list[Figure]:  # noqa: ARG001 - it is over when all are answered
    """W: 5,000 clients wait on one gateway process: how late they hear of the end, what waiting costs."""
    found = []
    with Installation(max_in_flight=1_000) as at:
        at.instant_upstream()
        gateway = at.gateway()
        at.beat()
        for run in range(runs + 1):
            waited = asyncio.run(_run(at, gateway))
            if run:  # the first warms up
                found.append(waited)
    return [
        Figure(name="W", what="heard of the end of a task, median", values=[_late(w, 0.5) for w in found], unit="ms"),
        Figure(name="W", what="heard of the end of a task, p99", values=[_late(w, 0.99) for w in found], unit="ms"),
        Figure(name="W", what="memory of a gateway with 5,000 waiting", values=[w.memory_mb for w in found], unit="MB"),
        Figure(name="W", what="of a core, while they wait", values=[100 * w.idle_cpu for w in found], unit="%"),
    ]


def _late(waited: Waited, share: float) -> float:
    return statistics.quantiles(waited.late_ms, n=100)[round(100 * share) - 1]


async def _run(at: Installation, gateway: Process) -> Waited:
    """No worker runs until everybody waits. Raises SystemExit where one of them is not answered."""
    ids = await asyncio.to_thread(_submit, at)
    waited = Waited()

    async def wait(session: aiohttp.ClientSession, task_id: str) -> None:
        async with session.get(f"{at.gateway_url}/tasks/{task_id}", params={"wait": "120"}) as response:
            body = await response.json()
        if body.get("status") != "SUCCESS":
            raise SystemExit(f"task {task_id}: {response.status} {str(body)[:500]}")
        waited.late_ms.append(1000 * (time.time() - datetime.fromisoformat(body["ended_at"]).timestamp()))

    timeout = aiohttp.ClientTimeout(total=180)
    headers = {"Authorization": f"Bearer {at.key}"}
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout, headers=headers) as session:
        waiting = [asyncio.create_task(wait(session, task_id)) for task_id in ids]
        await _until_idle(gateway)
        before_s = gateway.cpu_s
        await asyncio.sleep(IDLE_S)
        waited.idle_cpu = (gateway.cpu_s - before_s) / IDLE_S
        waited.memory_mb = gateway.memory_mb
        worker = await asyncio.to_thread(at.worker)
        await asyncio.gather(*waiting)
        await asyncio.to_thread(worker.stop)
    return waited


async def _until_idle(gateway: Process) -> None:
    """All have connected and are waiting, once the gateway has less than a fifth of a core to do for a second."""
    until = time.monotonic() + CONNECTING_S
    while True:
        before_s = gateway.cpu_s
        await asyncio.sleep(1)
        if gateway.cpu_s - before_s < 0.2:
            return
        if time.monotonic() > until:
            raise SystemExit(f"{CLIENTS} clients are not waiting after {CONNECTING_S:.0f} s")


def _submit(at: Installation) -> Sequence[str]:
    tasks = [{"model": "glm-4-air", "prompt": f"text {i}"} for i in range(CLIENTS)]
    headers = {"Authorization": f"Bearer {at.key}"}
    answer = httpx2.post(f"{at.gateway_url}/tasks", json=tasks, headers=headers, timeout=120).raise_for_status()
    return [one["id"] for one in answer.json()["data"]]
