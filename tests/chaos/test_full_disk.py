"""The embedded mode on a disk without room: it says so, keeps what it accepted, and finishes it when there is room."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.acceptance.processes import Process, Processes
from tests.chaos import books, ledger, report
from tests.chaos.books import Books
from tests.chaos.deployment import MODELS, ROOT, until

PAGES = 400
"""Of 4 KiB: the schema and some hundred tasks."""
SUBMITS_MOST = 200

pytestmark = pytest.mark.timeout(180)


class Embedded:
    """`tollgate up` on a data folder of its own, in front of a simulator that outlives it."""

    def __init__(self, folder: Path) -> None:
        self.processes = Processes(folder)
        self.file = folder / "data" / "tollgate.db"
        simulator = self.processes.start("tollgate", "simulator", "--port", "0", "--latency", "0.2", environment={})
        self.simulator_url = simulator.wait_for(r"http://[\d.]+:\d+").group()
        self._environment = {
            "TOLLGATE_DATA": str(folder / "data"),
            "ZHIPUAI_API_KEY": "chaos.key",
            "TOLLGATE_ZHIPU_BASE_URL": f"{self.simulator_url}/api/paas/v4",
            "TOLLGATE_DRAIN_TIMEOUT_S": "2",
            "PYTHONPATH": str(ROOT),
        }

    def start(self, *, pages: int | None = None) -> Process:
        limit = [] if pages is None else ["--sqlite-max-pages", str(pages)]
        launch = ("python", "-m", "tests.chaos.launch", *limit, "--")
        server = self.processes.start(*launch, "up", "--port", "0", environment=self._environment)
        self.url = server.wait_for(r"serves on (http://\S+)").group(1)
        self._key = (self.file.parent / "admin.key").read_text().strip()
        return server

    def post(self, body: Any) -> httpx2.Response:
        headers = {"Authorization": f"Bearer {self._key}"}
        return httpx2.post(f"{self.url}/tasks", json=body, headers=headers, timeout=60)

    def books(self) -> Books:
        bill = httpx2.get(f"{self.simulator_url}/simulator/bill.csv").text
        return books.read(f"sqlite:///{self.file}", bill)

    def check_file(self) -> str:
        """SQLite's own: "ok", or what is broken."""
        with contextlib.closing(sqlite3.connect(self.file)) as connection:
            found: str = connection.execute("PRAGMA integrity_check").fetchone()[0]
        return found


@pytest.fixture
def embedded(tmp_path: Path) -> Iterator[Embedded]:
    started = Embedded(tmp_path)
    try:
        yield started
    finally:
        for process in started.processes.started:
            process.kill()
            process.stop()


def fill(town: Embedded) -> tuple[set[str], httpx2.Response]:
    """Submit until one is refused: the accepted ids, and the refusal."""
    accepted: set[str] = set()
    for _ in range(SUBMITS_MOST):
        answer = town.post([{"model": MODELS[0], "prompt": f"{n} " + "a long text. " * 40} for n in range(20)])
        if answer.status_code != 202:
            return accepted, answer
        accepted |= {books.hex_of(task["id"]) for task in answer.json()["data"]}
    raise AssertionError("the disk never became full")


def test_a_full_disk_refuses_submits_loses_nothing_and_is_finished_with_room(
    embedded: Embedded, pytestconfig: pytest.Config
) -> None:
    server = embedded.start(pages=PAGES)
    accepted, refused = fill(embedded)
    assert refused.status_code == 503, refused.text
    assert "full" in refused.json()["error"]["message"]
    assert int(refused.headers["Retry-After"]) > 0
    assert server.stop() == 0, "it stops as it should, with answers that it cannot store"
    assert embedded.check_file() == "ok"

    embedded.start()
    until(lambda: all(t["state"] in books.ENDED for t in embedded.books().tasks.values()), "all ended", limit_s=90)
    assert embedded.check_file() == "ok"
    found = embedded.books()
    report.write(pytestconfig, "full_disk", found.summary())
    assert found.states() == {"succeeded": len(accepted)}
    ledger.require_balance(found, accepted=accepted)
