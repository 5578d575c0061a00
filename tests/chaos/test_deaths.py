"""SIGKILL at every named step, all in one deployment: what was accepted is finished, once, and the books balance."""

from __future__ import annotations

import signal

import pytest

from tests.chaos.aftermath import UNANSWERED, WORKER_STEPS, Aftermath, bring_about
from tests.chaos.books import Row, hex_of
from tests.chaos.conftest import Settle
from tests.chaos.deployment import Deployment
from tests.chaos.steps import STEPS
from worker.watch import DEAD_AFTER_S

AGAIN_WITHIN_S = 30.0
"""20 s to 24 s until a worker is found dead, the first back-off, 2 s to the next round of the announcer."""

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def aftermath(bare_deployment: Deployment) -> Aftermath:
    return bring_about(bare_deployment)


def attempts_of(aftermath: Aftermath, step: str) -> list[Row]:
    """Those whose lease was the dead worker's to the end."""
    books = aftermath.town.books()
    ids = books.worker_ids(aftermath.dead[step].pid)
    return [row for row in books.attempts if hex_of(row["worker_id"]) in ids]


def test_every_step_of_the_table_killed_its_process(aftermath: Aftermath) -> None:
    assert {step: process.exit_code for step, process in aftermath.dead.items()} == dict.fromkeys(
        STEPS, -signal.SIGKILL
    )


def test_what_the_dead_held_runs_again_within_30_s(aftermath: Aftermath) -> None:
    assert len(aftermath.held) >= len(WORKER_STEPS), "each of them held something"
    # A beat that a busy machine held up for 5 s counts the silence anew, and says so.
    assert aftermath.again_s <= AGAIN_WITHIN_S + DEAD_AFTER_S * aftermath.late_reads


def test_all_of_it_ends_and_the_books_balance(aftermath: Aftermath, settle: Settle) -> None:
    town = aftermath.town
    settle(town, killed=len(aftermath.dead), frozen=1, orphans=len(aftermath.held), again_s=round(aftermath.again_s, 1))
    assert town.books().states() == {"succeeded": len(town.accepted) + 1}, "one answer was lost"


def test_what_was_submitted_is_fetched_and_billed_once_whoever_died(aftermath: Aftermath) -> None:
    aftermath.town.until_ended()
    books = aftermath.town.books()
    polled = [row for row in books.attempts if row["mode"] == "async"]
    taken_over = [row for row in polled if row["fence"] > 1]
    assert taken_over, "some were the dead workers'"
    assert any(row["unanswered"] for row in taken_over), "of some the id was lost, and asked for again"
    assert {(row["outcome"], row["number"], len(books.bill[row["request_id"]])) for row in polled} == {
        ("succeeded", 1, 1)
    }


@pytest.mark.parametrize("step", ["sent", "answered", "before_settle"])
def test_a_call_that_left_before_the_death_is_shown_as_perhaps_billed(aftermath: Aftermath, step: str) -> None:
    aftermath.town.until_ended()
    bill = aftermath.town.books().bill
    uncertain = [row for row in attempts_of(aftermath, step) if row["outcome"] == "uncertain"]
    assert any(row["request_id"] in bill for row in uncertain), "the upstream had it, and billed it"


def test_what_died_after_it_was_settled_is_not_bought_again(aftermath: Aftermath) -> None:
    aftermath.town.until_ended()
    settled = [row for row in attempts_of(aftermath, "after_settle") if row["outcome"] == "succeeded"]
    assert settled
    tasks = aftermath.town.books().tasks
    assert {tasks[hex_of(row["task_id"])]["attempt"] - row["number"] for row in settled} == {0}


def test_a_submit_whose_gateway_died_after_the_commit_is_answered_with_its_one_task(aftermath: Aftermath) -> None:
    with aftermath.town.client() as client:
        again = client.post("/tasks", json=UNANSWERED)
        listed = client.get("/tasks", params={"request_id": UNANSWERED["request_id"]}).json()["data"]
    assert (again.status_code, again.json()["duplicate"]) == (200, True)
    assert [task["id"] for task in listed] == [again.json()["id"]]


def test_a_worker_that_wakes_after_its_lease_registers_anew_and_works_again(aftermath: Aftermath) -> None:
    town = aftermath.town
    registrations = town.books().worker_ids(aftermath.frozen.pid)
    town.until_ended()
    while not worked_lately(town, aftermath.frozen.pid):
        town.until_ended(town.submit(*(f"for whoever is awake {n}" for n in range(5))))
    assert len(town.books().worker_ids(aftermath.frozen.pid)) >= len(registrations) == 2
    town.until_ended()


def test_the_providers_bill_settles_what_was_in_doubt(aftermath: Aftermath) -> None:
    """The last test here: after it nothing is uncertain, and what is booked is the bill to the last unit."""
    town = aftermath.town
    town.until_ended()
    in_doubt = town.reconcile("--bill", town.save_bill())
    assert in_doubt.returncode == 1, "the bill says more than the books do"
    # By itself a bill speaks for the time from its first charge to its last: a call from before is not in question.
    applied = town.reconcile("--bill", town.save_bill(), "--apply", "--from", "2000-01-01", "--to", "2100-01-01")
    agreed = town.reconcile("--bill", town.save_bill())
    assert agreed.returncode == 0, applied.stdout + agreed.stdout + agreed.stderr
    books = town.books()
    assert not books.with_outcome("uncertain")
    billed = sum(sum(charges) for charges in books.bill.values())
    assert sum(row["cost_nano"] or 0 for row in books.attempts) == billed
    assert sum(int(row["cost_nano"]) for row in books.usage) == billed


def worked_lately(town: Deployment, pid: int) -> bool:
    """Whether a registration that is alive has settled something."""
    books = town.books()
    alive = {hex_of(row["id"]) for row in books.workers if not row["dead"]} & books.worker_ids(pid)
    return any(hex_of(row["worker_id"]) in alive and row["outcome"] == "succeeded" for row in books.attempts)
