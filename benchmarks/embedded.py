"""S10: `tollgate up`: gateway, worker, simulator and SQLite in one process."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import httpx2

from benchmarks import load
from benchmarks.installation import BIN, Process, clean_environment
from benchmarks.report import Figure
from benchmarks.submits import BODY

TARGET_PER_S = 400


def end_to_end(*, runs: int, seconds: float) -> list[Figure]:
    """S10: the embedded mode, single submits by 64 clients to settled, an instant upstream."""
    rates = []
    with tempfile.TemporaryDirectory(prefix="tollgate-bench-") as folder:
        data = Path(folder) / "data"
        environment = {**clean_environment(), "TOLLGATE_SIMULATOR_LATENCY_S": "0"}
        command = [str(BIN / "tollgate"), "up", "--port", "0", "--data", str(data)]
        up = Process("up", command, folder=Path(folder), environment=environment)
        try:
            up.said("Ctrl-C")
            url = (data / "address").read_text().strip()
            key = (data / "admin.key").read_text().strip()
            with httpx2.Client(base_url=url, headers={"Authorization": f"Bearer {key}"}, timeout=60) as client:
                settled = 0
                for run in range(-1, runs):  # the first warms up
                    started = time.monotonic()
                    sent = load.post(f"{url}/tasks", BODY, key=key, seconds=1 if run < 0 else seconds).requests
                    settled = _wait_settled(client, settled + sent)
                    if run >= 0:
                        rates.append(sent / (time.monotonic() - started))
        finally:
            up.stop()
    return [Figure(name="S10", what="embedded, submit to settled, tasks/s", values=rates, target=TARGET_PER_S)]


def _wait_settled(client: httpx2.Client, count: int) -> int:
    """How many are settled, once it is so many."""
    while True:
        settled = int(client.get("/usage").json()["total"]["tasks_succeeded"])
        if settled >= count:
            return settled
        time.sleep(0.05)
