"""Celery's own speed: empty tasks, publish to executed. The unit that the end-to-end figures are told in.

Prefork 2, default prefetch, ignore_result, Redis; a worker and a publisher, each a process.
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import celery
import redis

from benchmarks.installation import REDIS, ROOT, Process, clean_environment

TASKS = 6_000
WARM_UP = 500
QUEUE = "celery"
app = celery.Celery("benchmarks.celery_empty", broker=REDIS, set_as_current=False)
app.conf.update(task_ignore_result=True, worker_hijack_root_logger=False)


@app.task(name="empty", ignore_result=True)
def empty() -> None:
    """Nothing."""


def rate(folder: Path) -> float:
    """Tasks/s, from the first publish until the queue is empty and nothing is unacknowledged."""
    environment = {**clean_environment(), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "celery", "-A", "benchmarks.celery_empty", "worker", "-P", "prefork", "-c", "2"]
    worker = Process("celery-empty", command, folder=folder, environment=environment)
    try:
        _run(WARM_UP, environment)
        return TASKS / _run(TASKS, environment)
    finally:
        worker.stop()


def _run(count: int, environment: dict[str, str]) -> float:
    """Seconds for `count` tasks."""
    publisher = [sys.executable, "-m", "benchmarks.celery_empty", str(count)]
    began = subprocess.run(publisher, env=environment, check=True, capture_output=True, text=True).stdout
    with redis.Redis.from_url(REDIS) as client:
        while client.llen(QUEUE) or client.hlen("unacked"):
            time.sleep(0.005)
    return time.monotonic() - float(began)


def _publish(count: int) -> None:
    """Prints when it began: the monotonic clock is the machine's, and a process takes a second to start."""
    print(time.monotonic(), flush=True)
    for _ in range(count):
        empty.delay()


if __name__ == "__main__":
    _publish(int(sys.argv[1]))
