"""Streams whose processes die under them: a reader that comes back gets every word, once."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest

from tests.chaos.conftest import Settle
from tests.chaos.deployment import Deployment, serves

TOKENS, PER_S = 240, 40
"""Six seconds of a stream: longer than a gateway takes to start."""
Event = tuple[str, str, Any]
"""Name, id, data."""

pytestmark = pytest.mark.timeout(180)


class Reader(threading.Thread):
    """Reads a task's events as a browser would: it comes back after a cut, with the last id it saw."""

    def __init__(self, town: Deployment, task_id: str) -> None:
        super().__init__(daemon=True)
        self._town, self._task_id = town, task_id
        self.events: list[Event] = []
        self.came = 0
        self.start()

    def run(self) -> None:
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and not any(name == "end" for name, _, _ in self.events):
            self.came += 1
            try:
                self._read()
            except httpx2.TransportError:
                time.sleep(0.2)

    def _read(self) -> None:
        last = next((i for _, i, _ in reversed(self.events) if i), "")
        headers = {"Last-Event-ID": last} if last else {}
        path = f"/tasks/{self._task_id}/events"
        with self._town.client() as client, client.stream("GET", path, headers=headers) as response:
            assert response.status_code == 200
            self.events.extend(events_of(response))

    def until_read(self, count: int) -> None:
        deadline = time.monotonic() + 30
        while len(self.events) < count:
            assert time.monotonic() < deadline, "no events"
            time.sleep(0.05)

    @property
    def text(self) -> str:
        """Of the attempt that was told last."""
        parts: list[str] = []
        for name, _, data in list(self.events):
            if name == "restart":
                parts = []
            elif name == "delta":
                parts.append(data.get("content", ""))
        return "".join(parts)


def events_of(response: httpx2.Response) -> Iterator[Event]:
    name = place = ""
    for line in response.iter_lines():
        field, _, value = line.partition(": ")
        if field == "event":
            name, place = value, ""
        elif field == "id":
            place = value
        elif field == "data":
            yield name, place, json.loads(value)


def begin(deployment: Deployment) -> tuple[str, Reader]:
    deployment.set_simulator(tokens_per_second=PER_S)
    [task_id] = deployment.submit(f"[[tokens:{TOKENS}]]tell me", stream=True)
    reader = Reader(deployment, task_id)
    reader.until_read(3)
    return task_id, reader


def ended(reader: Reader) -> Any:
    reader.join(120)
    name, _, task = reader.events[-1]
    assert name == "end"
    assert reader.text == task["result"]["choices"][0]["message"]["content"]
    return task


def test_a_gateway_that_is_killed_in_mid_stream_costs_no_word(deployment: Deployment, settle: Settle) -> None:
    _, reader = begin(deployment)
    gateway = next(p for p in deployment.processes.started if p.command[1] == "gateway")
    gateway.kill()
    gateway.wait_for_end()
    serves(deployment.start_gateway())
    task = ended(reader)
    assert (task["state"], len(task["attempts"])) == ("succeeded", 1)
    assert reader.came > 1
    settle(deployment, came=reader.came)


def test_a_broker_that_is_away_in_mid_stream_costs_no_word(deployment: Deployment, settle: Settle) -> None:
    _, reader = begin(deployment)
    deployment.redis.stop()
    time.sleep(1)
    deployment.redis.start()
    task = ended(reader)
    assert (task["state"], len(task["attempts"]), reader.came) == ("succeeded", 1, 1)
    settle(deployment)


def test_a_worker_that_is_killed_in_mid_stream_is_told_as_a_restart(deployment: Deployment, settle: Settle) -> None:
    _, reader = begin(deployment)
    workers = [p for p in deployment.processes.started if p.command[1] == "worker" and p.exit_code is None]
    holders = deployment.books()
    holder = next(worker for worker in workers if holders.held_by({worker.pid}))
    holder.kill()
    task = ended(reader)
    assert "restart" in [name for name, _, _ in reader.events]
    assert [attempt["outcome"] for attempt in task["attempts"]] == ["uncertain", "succeeded"]
    settle(deployment)
