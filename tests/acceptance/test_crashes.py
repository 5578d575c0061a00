"""What was accepted is finished, also after kill -9."""

from __future__ import annotations

import json
import os
import time
from decimal import Decimal
from pathlib import Path

import pytest

from tests.acceptance.conftest import Deployment
from tests.acceptance.processes import Processes
from tests.acceptance.test_main_path import wait_until_ended

LINES = int(os.environ.get("TOLLGATE_CHAOS_LINES") or 800)
"""Of a batch."""


def test_the_embedded_mode_finishes_after_kill_9_what_it_had_accepted(embedded: Deployment) -> None:
    embedded.set_simulator(latency_s=0.3)
    given = [{"model": "glm-4-air", "prompt": f"text {i}"} for i in range(300)]
    ids = [task["id"] for task in embedded.post("/tasks", given)["data"]]
    embedded.get("/tasks", id=",".join(ids), wait=20)
    embedded.server.kill()

    server = embedded.processes.start("tollgate", "up", "--port", "0", environment=embedded.environment)
    embedded.url = server.wait_for(r"serves on (http://\S+)").group(1)
    ended = wait_until_ended(embedded, ids)
    assert [task["status"] for task in ended] == ["SUCCESS"] * 300
    usage = embedded.get("/usage", by="model")["total"]
    billed = embedded.bill()["charges"]
    assert usage["tasks_succeeded"] == 300
    assert 300 <= billed <= 300 + usage["attempts_uncertain"], "what ran at the kill is shown as perhaps billed"


@pytest.mark.timeout(60 + LINES / 10)
def test_the_embedded_mode_finishes_a_batch_after_kill_9(embedded: Deployment) -> None:
    embedded.set_simulator(latency_s=0.1)
    lines = [f'{{"prompt": "text {n}", "custom_id": "{n}"}}' if n % 100 else "no line" for n in range(1, LINES + 1)]
    with embedded.client as client:
        file = client.post("/files", content="\n".join(lines).encode()).json()
    asked = {"input_file_id": file["id"], "model": "glm-4-air", "parameters": {"max_tokens": 10}}
    batch_id = embedded.post("/batches", asked, status=201)["id"]
    while embedded.get(f"/batches/{batch_id}")["counts"]["succeeded"] < LINES // 4:
        time.sleep(0.1)  # its progress is polled
    embedded.server.kill()

    server = embedded.processes.start("tollgate", "up", "--port", "0", environment=embedded.environment)
    embedded.url = server.wait_for(r"serves on (http://\S+)").group(1)
    while (batch := embedded.get(f"/batches/{batch_id}"))["state"] == "in_progress":
        time.sleep(0.1)
    bad = LINES // 100
    counts = {name: count for name, count in batch["counts"].items() if count}
    assert (batch["state"], counts) == ("completed", {"total": LINES, "invalid": bad, "succeeded": LINES - bad})
    with embedded.client as client:
        told = [json.loads(line) for line in client.get(f"/batches/{batch_id}/results").text.splitlines()]
    assert [line["line"] for line in told] == list(range(1, LINES + 1)), "each once, in the order of the file"
    assert [line["line"] for line in told if line["error"]] == list(range(100, LINES + 1, 100))
    certain, billed = Decimal(batch["cost"]), Decimal(embedded.bill()["cost"])
    assert certain <= billed <= certain + Decimal(batch["possible_cost"] or 0)


def test_a_second_up_on_the_same_data_is_refused_with_the_fix(embedded: Deployment) -> None:
    second = embedded.processes.run("tollgate", "up", "--port", "0", environment=embedded.environment)
    assert second.returncode != 0
    assert "in use" in second.stderr or "already" in second.stderr, second.stderr
    assert "Traceback" not in second.stderr


@pytest.mark.timeout(180)
def test_a_killed_workers_tasks_run_again_elsewhere(distributed: Deployment) -> None:
    distributed.set_simulator(latency_s=1.0)
    given = [{"model": "glm-4-air", "prompt": f"text {i}"} for i in range(40)]
    ids = [task["id"] for task in distributed.post("/tasks", given)["data"]]
    worker = next(p for p in distributed.processes.started if "celery" in p.command[0])
    while not any(t["state"] == "running" for t in distributed.get("/tasks", id=",".join(ids), wait=0.2)["data"]):
        pass
    worker.kill()
    distributed.processes.start("tollgate", "worker", environment=distributed.environment).wait_for(r"ready\.")
    ended = wait_until_ended(distributed, ids)
    assert [task["status"] for task in ended] == ["SUCCESS"] * 40
    usage = distributed.get("/usage", by="model")["total"]
    assert usage["tasks_succeeded"] == 40
    assert 40 <= distributed.bill()["charges"] <= 40 + usage["attempts_uncertain"]


def test_a_worker_that_cannot_start_says_why_and_fails(
    processes: Processes, distributed_environment: dict[str, str]
) -> None:
    """The database is empty. Scripts and containers see the exit code."""
    failed = processes.run("tollgate", "worker", environment=distributed_environment)
    assert failed.returncode == 1
    assert "run `tollgate migrate`" in failed.stderr
    assert "Traceback" not in failed.stderr


def test_up_refuses_a_database_that_is_not_its_own(processes: Processes, sqlite_url: str) -> None:
    """It would take a running installation's tasks for those of a dead one."""
    refused = processes.run("tollgate", "up", "--port", "0", environment={"TOLLGATE_DATABASE_URL": sqlite_url})
    assert refused.returncode == 2
    assert "TOLLGATE_DATABASE_URL" in refused.stderr


def test_up_without_the_master_key_of_its_keys_says_so_and_makes_none(embedded: Deployment, tmp_path: Path) -> None:
    assert embedded.server.stop() == 0
    assert not (tmp_path / "data" / "address").exists(), "nobody answers there now"
    (tmp_path / "data" / "master.key").unlink()
    refused = embedded.processes.run("tollgate", "up", "--port", "0", environment=embedded.environment)
    assert refused.returncode == 2
    assert "master.key" in refused.stderr
    assert not (tmp_path / "data" / "master.key").exists(), "a new one would hide the loss"
