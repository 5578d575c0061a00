"""Workers that buy by the upstream's own batch are killed there: others go on, and no line is bought twice."""

from __future__ import annotations

import json
import signal
from typing import Any

import pytest

from tests.chaos.conftest import Settle
from tests.chaos.deployment import Deployment, serves, until

LINES = 1_200
"""More than are settled together."""
LIMIT_S = 90.0
"""A death is seen after 20 s or more."""

pytestmark = pytest.mark.timeout(300)


def content() -> bytes:
    calls = (
        {
            "custom_id": f"line-{number}",
            "method": "POST",
            "url": "/v4/chat/completions",
            "body": {"model": "glm-4-air", "messages": [{"role": "user", "content": f"label {number}"}]},
        }
        for number in range(LINES)
    )
    return b"\n".join(json.dumps(call).encode() for call in calls)


def made(town: Deployment) -> str:
    with town.client() as client:
        uploaded = client.post("/files", params={"filename": "night.jsonl"}, content=content())
        assert uploaded.status_code == 201, uploaded.text
        told = {"input_file_id": uploaded.json()["id"], "via": "upstream_batch"}
        answer = client.post("/batches", json=told)
    assert answer.status_code == 201, answer.text
    return str(answer.json()["id"])


def test_buyers_that_are_killed_are_followed_and_nothing_is_bought_twice(
    bare_deployment: Deployment, settle: Settle
) -> None:
    town = bare_deployment
    town.environment["TOLLGATE_UPSTREAM_BATCH_POLL_S"] = "0.5"
    town.set_simulator(batches={"failed": 0.1})
    first = town.start_worker(die_at="bought")
    for process in (town.start_gateway(), first, town.start_beat()):
        serves(process)
    batch_id = made(town)
    assert first.wait_for_end(timeout_s=LIMIT_S) == -signal.SIGKILL
    second = town.start_worker(die_at="harvesting")
    assert second.wait_for_end(timeout_s=LIMIT_S) == -signal.SIGKILL
    serves(town.start_worker())

    def read() -> Any:
        with town.client() as client:
            return client.get(f"/batches/{batch_id}").json()

    until(lambda: read()["state"] == "completed", "the batch has ended", limit_s=LIMIT_S)
    settle(town, lines=LINES, limit_s=60)
    assert read()["counts"]["succeeded"] == LINES
    assert town.simulator_stats()["requests_by_endpoint"]["batch_create"] == 1
    (bought,) = read()["upstream_batches"]
    assert (bought["state"], bought["lines"]) == ("ended", LINES)
    bill = town.books().bill
    assert all(len(charges) == 1 for charges in bill.values())
    assert len(bill) == LINES
    assert round(float(read()["cost"]) * 10**9) == sum(sum(charges) for charges in bill.values())
    assert town.reconcile("--bill", town.save_bill()).returncode == 0
