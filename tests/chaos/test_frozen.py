"""A worker that is stopped in the middle of a transaction keeps its locks and its connection: the rest must go on.

At the first passing: on other connections its driver may be in the middle of preparing a statement then, where no limit
of the server's ends it."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests.acceptance.processes import Process
from tests.chaos.conftest import Settle
from tests.chaos.deployment import MODELS, Deployment, prompts, serves
from tests.chaos.steps import IN_TRANSACTION

GOES_ON_WITHIN_S = 60.0
"""20 s to 24 s until it counts as dead, and what a statement may wait for a lock (30 s)."""
FREEZES_WITHIN_S = 120.0
"""Who froze first may have been feeding beside it: the announcers' lock is his until the database ends his transaction,
after 15 s."""

pytestmark = pytest.mark.timeout(300)


def is_frozen(process: Process) -> bool:
    """By the kernel: the state follows the name, which stands in brackets."""
    return Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="the kernel's view of a process is read in /proc")
def test_workers_frozen_in_the_middle_of_transactions_hold_up_nobody(deployment: Deployment, settle: Settle) -> None:
    """One in each kind of transaction, in one deployment: while they sleep, all that was accepted ends."""
    sleepers = {step: deployment.start_worker(freeze_at=step) for step in IN_TRANSACTION}
    try:
        for process in sleepers.values():
            serves(process)
        feed_until_frozen(deployment, sleepers)
        went_on_s = deployment.until_ended(limit_s=GOES_ON_WITHIN_S)
        for process in sleepers.values():
            process.thaw()
        settle(deployment, frozen=list(sleepers), went_on_after_s=round(went_on_s, 1))
    finally:
        for process in sleepers.values():
            process.kill()  # after a minute's sleep a worker ends itself, with a code of its own


def feed_until_frozen(town: Deployment, sleepers: dict[str, Process]) -> None:
    deadline = time.monotonic() + FREEZES_WITHIN_S
    while awake := [step for step, process in sleepers.items() if not is_frozen(process)]:
        assert time.monotonic() < deadline, f"still awake: {awake}"
        for model in MODELS:
            town.submit(*prompts(4, about="text"), model=model)
