"""A batch whose gateway, workers and Redis die under it: every good line has one result, every bad one its reason, and
what it cost is the upstream's bill. `make chaos` runs it with 100,000 lines.
"""

from __future__ import annotations

import json
import os
import signal
from collections import Counter
from collections.abc import Callable
from typing import Any

import httpx2
import pytest

from tests.chaos.conftest import Settle
from tests.chaos.deployment import MODELS, Deployment, serves, until

LINES = int(os.environ.get("TOLLGATE_CHAOS_LINES") or 2_500)
BAD_EVERY = 100
LIMIT_S = 60 + LINES / 25
BAD = (
    b'{"custom_id": "cut off',
    b'{"custom_id": "line-1", "method": "POST", "url": "/v1/chat/completions", "body": {"model": "glm-4-air", '
    b'"messages": [{"role": "user", "content": "a custom_id of before"}]}}',
    b'{"custom_id": "unknown", "method": "POST", "url": "/v1/chat/completions", "body": {"model": "none-such", '
    b'"messages": [{"role": "user", "content": "hello"}]}}',
    b'{"custom_id": "hot", "method": "POST", "url": "/v1/chat/completions", "body": {"model": "glm-4-air", '
    b'"temperature": 9, "messages": [{"role": "user", "content": "hello"}]}}',
)
CODES = {"invalid_json_line", "duplicate_custom_id", "model_not_found", "invalid_value"}

pytestmark = pytest.mark.timeout(240 + 2 * LIMIT_S)


def content() -> bytes:
    """One line in a hundred is bad, of each kind in turn."""
    return b"\n".join(_line(number) for number in range(1, LINES + 1))


def _line(number: int) -> bytes:
    if number % BAD_EVERY == 0:
        return BAD[number // BAD_EVERY % len(BAD)]
    body = {
        "model": MODELS[number % len(MODELS)],
        "messages": [{"role": "user", "content": f"label {number}: " + "more words. " * (number % 5)}],
        "max_tokens": 20,
    }
    call = {"custom_id": f"line-{number}", "method": "POST", "url": "/v1/chat/completions", "body": body}
    return json.dumps(call).encode()


def made(client: httpx2.Client) -> str:
    uploaded = client.post("/files", params={"filename": "night.jsonl"}, content=content())
    assert uploaded.status_code == 201, uploaded.text
    answer = client.post("/batches", json={"input_file_id": uploaded.json()["id"]})
    assert answer.status_code == 201, answer.text
    return str(answer.json()["id"])


def reader(town: Deployment, batch_id: str) -> Callable[[], Any]:
    def read() -> Any:
        with town.client() as client:
            answer = client.get(f"/batches/{batch_id}")
        assert answer.status_code == 200, answer.text
        return answer.json()

    return read


def test_a_batch_outlives_its_gateway_its_workers_and_redis(bare_deployment: Deployment, settle: Settle) -> None:
    town = bare_deployment
    gateway = town.start_gateway(die_at="taken:2")
    workers = [town.start_worker() for _ in range(2)]
    for process in (gateway, *workers, town.start_beat()):
        serves(process)
    with town.client() as client:
        batch_id = made(client)
    assert gateway.wait_for_end() == -signal.SIGKILL, "in the middle of the file"
    serves(town.start_gateway())
    read = reader(town, batch_id)

    def done(share: float) -> Callable[[], bool]:
        return lambda: read()["counts"]["succeeded"] >= share * LINES

    until(done(0.2), "a fifth is done", limit_s=LIMIT_S)
    workers[0].kill()
    with town.broker_client() as redis:
        redis.flushall()
    serves(town.start_worker())
    until(done(0.6), "three fifths are done", limit_s=LIMIT_S)
    workers[1].kill()
    serves(town.start_worker())
    until(lambda: read()["state"] == "completed", "all is done", limit_s=LIMIT_S)

    settle(town, lines=LINES, limit_s=120)
    _require_every_line(town, read())
    _require_the_bill(town, read)


def _require_every_line(town: Deployment, batch: Any) -> None:
    bad = LINES // BAD_EVERY
    counts = {name: count for name, count in batch["counts"].items() if count}
    assert counts == {"total": LINES, "invalid": bad, "succeeded": LINES - bad}
    assert {error["code"] for error in batch["errors"]} == CODES
    assert sum(error["count"] for error in batch["errors"]) == bad
    lines = Counter(task["line"] for task in town.books().tasks.values())
    assert lines == Counter(number for number in range(1, LINES + 1) if number % BAD_EVERY), (
        "each good line is one task"
    )


def _require_the_bill(town: Deployment, read: Callable[[], Any]) -> None:
    """What may have been bought by who died is uncertain; the bill decides it, and then all is equal."""
    applied = town.reconcile("--bill", town.save_bill(), "--apply")
    assert applied.returncode in (0, 1), applied.stdout + applied.stderr
    billed = sum(sum(charges) for charges in town.books().bill.values())
    batch = read()
    assert round(float(batch["cost"]) * 10**9) == billed
    assert town.reconcile("--bill", town.save_bill()).returncode == 0
