"""SIGTERM under load: no new claims, what is in flight ends, the rest is given back at once and runs elsewhere."""

from __future__ import annotations

import time
from datetime import datetime

import pytest

from tests.acceptance.processes import Process
from tests.chaos.books import Row, hex_of
from tests.chaos.conftest import Settle
from tests.chaos.deployment import Deployment, prompts, serves, until

LATENCY_S = 2.0
STOPS_WITHIN_S = 20.0
"""In-flight calls take LATENCY_S; the rest is a margin for a busy machine."""
HELD_S = 4.0
"""Latency while one worker holds everything: it is asked to stop before the first of them ends."""
GIVEN_BACK_S = 14.0
"""Less than the 15 s for which a lost hint is trusted: what was given back is not waiting for that."""

pytestmark = pytest.mark.timeout(180)


def attempts_by(town: Deployment, process: Process) -> list[Row]:
    books = town.books()
    ids = books.worker_ids(process.pid)
    return [row for row in books.attempts if hex_of(row["worker_id"]) in ids]


@pytest.mark.parametrize("command", ["tollgate worker", "celery -A worker worker"])
def test_a_worker_that_is_asked_to_stop_ends_what_it_sent_and_leaves_the_rest(
    deployment: Deployment, settle: Settle, command: str
) -> None:
    leaving = deployment.start_worker() if command.startswith("tollgate") else deployment.start_celery()
    serves(leaving)
    deployment.set_simulator(latency_s=LATENCY_S)
    ids = [i for n in range(25) for i in deployment.submit(*prompts(10, about=f"stop {n}"))]

    def has_tasks() -> bool:
        # The others may have taken all there was.
        ids.extend(deployment.submit(*prompts(10, about="stop")))
        return bool(deployment.books().held_by({leaving.pid}))

    until(has_tasks, "the leaving worker has tasks", limit_s=60)
    asked_at = datetime.now().astimezone()
    leaving.ask_to_stop()
    began = time.monotonic()
    assert leaving.wait_for_end() == 0
    stopped_s = time.monotonic() - began
    assert stopped_s < STOPS_WITHIN_S
    started = [row["started_at"] for row in attempts_by(deployment, leaving)]
    assert (max(started) - asked_at).total_seconds() < 5, "it claims nothing more"
    settle(deployment, stopped_after_s=round(stopped_s, 1), by_the_leaving_worker=len(started))
    assert deployment.states(ids) == {"succeeded"}
    assert not deployment.books().with_outcome("uncertain"), "short calls were let end"
    assert {row["outcome"] for row in attempts_by(deployment, leaving)} == {"succeeded"}


def test_hints_that_a_stopping_worker_held_are_told_again_at_once(deployment: Deployment, settle: Settle) -> None:
    """One worker holds them all, and no other runs that could take them meanwhile."""
    idle = [p for p in deployment.processes.started if p.command[1] == "worker" and p.exit_code is None]
    for process in idle:
        process.stop()
    leaving = deployment.start_worker()
    serves(leaving)
    deployment.set_simulator(latency_s=HELD_S)
    ids = deployment.submit(*prompts(100, about="held"))
    until(lambda: bool(deployment.books().held_by({leaving.pid})), "it has tasks", limit_s=60)
    asked_at = datetime.now().astimezone()
    began = time.monotonic()
    leaving.ask_to_stop()
    assert leaving.wait_for_end() == 0
    until(lambda: not still_told(deployment, before=asked_at), "its hints are free", limit_s=GIVEN_BACK_S)
    given_back_s = time.monotonic() - began
    serves(deployment.start_worker())
    deployment.until_ended(ids, limit_s=60)
    settle(deployment, given_back_after_s=round(given_back_s, 1))
    assert 0 < len(attempts_by(deployment, leaving)) < len(ids)
    assert given_back_s < GIVEN_BACK_S
    assert not deployment.books().with_outcome("uncertain")


def still_told(town: Deployment, *, before: datetime) -> list[Row]:
    """Queued tasks that count as told since `before`."""
    queued = (row for row in town.books().tasks.values() if row["state"] == "queued")
    return [row for row in queued if row["announced_at"] is not None and row["announced_at"] < before]
