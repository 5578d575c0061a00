"""One deployment in which a process dies at every named step, and what is seen of it."""

from __future__ import annotations

import signal
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import httpx2

from tests.acceptance.processes import Process
from tests.chaos.books import ENDED, Row, hex_of
from tests.chaos.deployment import MODELS, Deployment, prompts, serves, until

CALLED = ("claimed", "sent", "answered", "before_settle", "after_settle")
POLLED = ("submitted", "polling")
WORKER_STEPS = (*CALLED, *POLLED)
"""Direct calls are interactive here and polled ones bulk: so each worker dies with what its step is about."""
LATENCY_S = 1.5
"""Longer than a killed process needs to die, so that a call is found in the upstream's hands."""
DIE_WITHIN_S = 60.0
AGAIN_LIMIT_S = 90.0
"""Far above what is promised: the test that holds the promise shall see the figure, not a timeout."""
UNANSWERED = {"model": MODELS[0], "prompt": "committed, and never answered", "request_id": "unanswered-0001"}
"""The submit whose gateway dies."""


@dataclass(frozen=True, kw_only=True)
class Aftermath:
    town: Deployment
    dead: dict[str, Process]
    """By the step at which it died."""
    frozen: Process
    """A worker that slept until its lease was given away, and woke."""
    held: set[str]
    """Tasks under the leases of the dead and of the frozen one, at the last death."""
    again_s: float
    """From then until all of them ran elsewhere, or had ended."""
    late_reads: int
    """How often the beat that lives was late to read the heartbeats."""


def bring_about(town: Deployment) -> Aftermath:
    """40 s, most of which is the time after which a silent worker counts as dead."""
    town.set_simulator(latency_s=LATENCY_S)
    gateway = town.start_gateway(die_at="committed:2")
    beats = [town.start_beat(), town.start_beat(die_at="announced")]
    serves(gateway)
    _lose_an_answer(town)
    serves(town.start_gateway())
    workers = {step: town.start_worker(die_at=step, lanes="cloud.interactive") for step in CALLED}
    workers |= {step: town.start_worker(die_at=step, lanes="cloud.bulk") for step in POLLED}
    frozen = town.start_worker()
    for process in (*beats, *workers.values(), frozen):
        serves(process)
    dead = {**workers, "announced": beats[1]}
    _feed_until_dead(town, list(dead.values()), then_freeze=frozen)
    held, since = town.books().held_by({p.pid for p in (*dead.values(), frozen)}), time.monotonic()
    town.start_worker()
    until(
        lambda: not _waiting(town, held, [*dead.values(), frozen]),
        "orphans run again",
        limit_s=AGAIN_LIMIT_S,
        else_told=lambda: _waiting(town, held, [*dead.values(), frozen]),
    )
    again_s = time.monotonic() - since
    frozen.thaw()
    frozen.wait_for("lease was lost", timeout_s=30)
    return Aftermath(
        town=town,
        dead={**dead, "committed": gateway},
        frozen=frozen,
        held=held,
        again_s=again_s,
        late_reads=beats[0].output.count("heartbeats read late"),
    )


def _lose_an_answer(town: Deployment) -> None:
    town.submit("answered")
    with town.client() as client:
        try:
            client.post("/tasks", json=UNANSWERED)
        except httpx2.TransportError:
            return
    raise AssertionError("the gateway answered, and was to die before")


def _feed_until_dead(town: Deployment, doomed: list[Process], *, then_freeze: Process) -> None:
    """Many small messages, so that each worker gets some; and tasks of later, which the beat has to announce."""
    deadline = time.monotonic() + DIE_WITHIN_S
    while alive := [process for process in doomed if process.exit_code is None]:
        assert time.monotonic() < deadline, f"still alive: {[process.command for process in alive]}"
        for model in MODELS:
            town.submit(*prompts(4, about="text"), model=model)
        town.submit(*prompts(8, about="to be polled"), mode="async", priority="bulk")
        town.submit("later", run_after=(datetime.now(UTC) + timedelta(seconds=1)).isoformat())
        time.sleep(0.1)  # a supply, not a flood
    assert {process.exit_code for process in doomed} == {-signal.SIGKILL}

    def has_tasks() -> bool:
        # It may have ended all there was.
        town.submit(*prompts(4, about="text"))
        return bool(town.books().held_by({then_freeze.pid}))

    until(has_tasks, "the worker to freeze has tasks", limit_s=60)
    then_freeze.freeze()


def _waiting(town: Deployment, ids: set[str], gone: list[Process]) -> list[Row]:
    """Those that have not ended, and run nowhere else yet."""
    found = town.books()
    lost_leases = {one for process in gone for one in found.worker_ids(process.pid)}

    def waits(task: Row) -> bool:
        runs = task["state"] == "running" and hex_of(task["worker_id"]) not in lost_leases
        return task["state"] not in ENDED and not runs

    return [task for i in ids if waits(task := found.tasks[i])]
