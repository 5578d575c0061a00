"""From queue to settled, result, tokens, cost and roll-up committed: S2 single submits, S3 a batch that waits."""

from __future__ import annotations

import time

from benchmarks import celery_empty, load
from benchmarks.installation import Installation
from benchmarks.report import Figure, ratio
from benchmarks.submits import BODY

WAITING = 20_000


def singles(*, runs: int, seconds: float) -> list[Figure]:
    """S2: 64 clients submit one task a request, an instant upstream, one gateway and one worker process."""
    ours, empty = [], []
    with Installation(max_in_flight=1000) as at:
        at.instant_upstream()
        at.gateway()
        at.worker()
        at.beat()
        done = load.post(f"{at.gateway_url}/tasks", BODY, key=at.key, seconds=2).requests
        at.wait_settled(done)
        for _ in range(runs):
            empty.append(celery_empty.rate(at.folder))
            before, started = at.settled(), time.monotonic()
            sent = load.post(f"{at.gateway_url}/tasks", BODY, key=at.key, seconds=seconds).requests
            ours.append(sent / (at.wait_settled(before + sent) - started))
    return [
        Figure(name="S2", what="Celery's empty tasks/s, publish to executed", values=empty),
        Figure(name="S2", what="single submits to settled, tasks/s", values=ours),
        ratio("S2", "single submits to settled against Celery's empty tasks", ours, empty, target=1.5),
    ]


def waiting(*, runs: int, seconds: float) -> list[Figure]:  # noqa: ARG001 - it is over when all are settled
    """S3: 20,000 tasks wait in the store when the worker starts; counted from its first settlement to its last."""
    ours, empty = [], []
    for _ in range(runs):
        with Installation(max_in_flight=1000) as at:
            empty.append(celery_empty.rate(at.folder))
            at.instant_upstream()
            at.gateway()
            at.beat()
            at.submit(WAITING)
            at.worker()
            first = at.wait_settled(1)
            counted = at.settled()
            ours.append((WAITING - counted) / (at.wait_settled(WAITING) - first))
    return [
        Figure(name="S3", what="Celery's empty tasks/s, publish to executed", values=empty),
        Figure(name="S3", what="20,000 waiting tasks to settled, tasks/s", values=ours),
        ratio("S3", "waiting tasks to settled against Celery's empty tasks", ours, empty, target=3.0),
    ]
