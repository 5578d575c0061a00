from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import product
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tollgate.domain.settling import (
    NO_COUNTS,
    AttemptRow,
    Bill,
    Counts,
    Known,
    Settlement,
    TaskRow,
    contribution,
    foreseen,
    resolve,
)
from tollgate.domain.states import AttemptOutcome, TaskState
from tollgate.store import batch_sums, roll_up

NOW = datetime(2026, 3, 1, 13, 5, tzinfo=UTC)
STARTED = NOW - timedelta(hours=1)
ID = UUID(int=1)
BILL = Bill(prompt_tokens=10, cached_tokens=2, completion_tokens=5, engine_us=9, price_id="p", cost_nano=70)
TASK = TaskRow(
    id=ID, project_id=UUID(int=2), key_id="k", model="m", label=None, state=TaskState.RUNNING, fence=3,
    cancel_requested=False,
)  # fmt: skip
ATTEMPT = AttemptRow(upstream="u", outcome=AttemptOutcome.OPEN, started_at=STARTED, bill=Bill())
SUCCESS = Settlement(
    task_id=ID, fence=3, attempt=1, outcome=AttemptOutcome.SUCCEEDED, state=TaskState.SUCCEEDED, bill=BILL, result="{}"
)
RETRY = replace(SUCCESS, outcome=AttemptOutcome.OPEN, state=TaskState.QUEUED, bill=Bill(), result=None)
DOUBT = replace(RETRY, outcome=AttemptOutcome.UNCERTAIN, bill=Bill(possible_cost_nano=90))
FAILURE = replace(RETRY, outcome=AttemptOutcome.FAILED, state=TaskState.FAILED, error_code="1210")
UNCERTAIN = replace(ATTEMPT, outcome=AttemptOutcome.UNCERTAIN, bill=DOUBT.bill)


def test_the_holder_settles_its_task_and_its_attempt() -> None:
    resolution = resolve(SUCCESS, TASK, ATTEMPT, now=NOW)
    assert (resolution.task, resolution.attempt, resolution.late) == (True, True, False)
    assert resolution.settlement == SUCCESS


def test_an_attempt_is_booked_in_the_hour_of_its_start_and_an_end_in_its_own() -> None:
    bought, ended = resolve(SUCCESS, TASK, ATTEMPT, now=NOW).bookings
    assert (bought.hour.hour, ended.hour.hour) == (12, 13)
    assert {(b.upstream, b.label, b.hour.minute) for b in (bought, ended)} == {("u", "", 0)}
    assert bought.counts == Counts(
        attempts=1, prompt_tokens=10, cached_tokens=2, completion_tokens=5, engine_us=9, cost_nano=70
    )
    assert ended.counts == Counts(tasks_succeeded=1)


@pytest.mark.parametrize("began", [NOW - timedelta(minutes=5), NOW - timedelta(minutes=6), STARTED])
@pytest.mark.parametrize("label", [None, "night"])
def test_what_is_foreseen_is_what_would_be_resolved(began: datetime, label: str | None) -> None:
    batch = UUID(int=3)
    known = Known(
        project_id=TASK.project_id, key_id="k", model="m", label=label, batch_id=batch, upstream="u",
        attempt_started_at=began,
    )  # fmt: skip
    expected = resolve(SUCCESS, replace(TASK, label=label, batch_id=batch), replace(ATTEMPT, started_at=began), now=NOW)
    found = foreseen(SUCCESS, known, now=NOW)
    assert (found.settlement, found.task, found.attempt, found.late) == (SUCCESS, True, True, False)
    assert replace(expected, before=None, bookings=()) == replace(found, bookings=())
    for steps in (partial(roll_up.booking, shard=2), lambda bookings: (batch_sums.booking(bookings, shard=2),)):
        assert [step.rows for step in steps(found.bookings)] == [step.rows for step in steps(expected.bookings)]


def test_a_retry_of_the_same_purchase_books_nothing() -> None:
    resolution = resolve(RETRY, TASK, ATTEMPT, now=NOW)
    assert (resolution.task, resolution.attempt, resolution.bookings) == (True, True, ())


@pytest.mark.parametrize("settlement", [SUCCESS, RETRY, DOUBT, FAILURE])
@pytest.mark.parametrize(
    "task",
    [
        pytest.param(replace(TASK, fence=4), id="taken over"),
        pytest.param(replace(TASK, state=TaskState.QUEUED), id="given back"),
        pytest.param(replace(TASK, state=TaskState.SUCCEEDED), id="ended"),
    ],
)
def test_a_lost_lease_changes_nothing_while_its_attempt_is_open(settlement: Settlement, task: TaskRow) -> None:
    resolution = resolve(settlement, task, ATTEMPT, now=NOW)
    assert (resolution.task, resolution.attempt, resolution.bookings) == (False, False, ())


@pytest.mark.parametrize(
    ("outcome", "expected"),
    [(AttemptOutcome.OPEN, AttemptOutcome.ABANDONED), (AttemptOutcome.UNCERTAIN, AttemptOutcome.UNCERTAIN)],
)
def test_cancelling_wins_over_a_retry(outcome: AttemptOutcome, expected: AttemptOutcome) -> None:
    asked = replace(TASK, cancel_requested=True)
    settlement = resolve(replace(RETRY, outcome=outcome), asked, ATTEMPT, now=NOW).settlement
    assert (settlement.state, settlement.outcome, settlement.error_code) == (
        TaskState.CANCELLED, expected, "cancelled",
    )  # fmt: skip


@pytest.mark.parametrize("settlement", [SUCCESS, FAILURE])
def test_an_end_wins_over_cancelling(settlement: Settlement) -> None:
    asked = replace(TASK, cancel_requested=True)
    assert resolve(settlement, asked, ATTEMPT, now=NOW).settlement == settlement


def test_what_the_upstream_has_by_an_id_is_uncertain_and_not_abandoned() -> None:
    asked = replace(TASK, cancel_requested=True)
    resolution = resolve(RETRY, asked, replace(ATTEMPT, upstream_id="x"), now=NOW)
    assert resolution.settlement.outcome is AttemptOutcome.UNCERTAIN
    assert resolution.bookings[0].counts == Counts(attempts=1, attempts_uncertain=1)


def test_a_task_that_never_ran_ends_without_an_upstream() -> None:
    queued = replace(TASK, state=TaskState.QUEUED)
    expiry = replace(FAILURE, held=TaskState.QUEUED, outcome=AttemptOutcome.ABANDONED, state=TaskState.EXPIRED)
    resolution = resolve(expiry, queued, None, now=NOW)
    assert (resolution.task, resolution.attempt) == (True, False)
    (booking,) = resolution.bookings
    assert (booking.upstream, booking.counts) == ("", Counts(tasks_failed=1))


@pytest.mark.parametrize(
    ("settlement", "state", "takes_task"),
    [
        (SUCCESS, TaskState.QUEUED, True),
        (SUCCESS, TaskState.RUNNING, False),
        (SUCCESS, TaskState.FAILED, False),
        (FAILURE, TaskState.QUEUED, False),
    ],
)
def test_a_late_answer_settles_its_attempt_and_only_a_queued_task(
    settlement: Settlement, state: TaskState, takes_task: bool
) -> None:
    resolution = resolve(settlement, replace(TASK, state=state, fence=4), UNCERTAIN, now=NOW)
    assert (resolution.task, resolution.attempt, resolution.late) == (takes_task, True, True)


def test_a_late_answer_books_the_difference() -> None:
    booking = resolve(SUCCESS, replace(TASK, fence=4), UNCERTAIN, now=NOW).bookings[0]
    assert booking.counts == contribution(AttemptOutcome.SUCCEEDED, BILL) - Counts(
        attempts=1, attempts_uncertain=1, possible_cost_nano=90
    )
    assert (booking.counts.attempts, booking.counts.possible_cost_nano) == (0, -90)


@pytest.mark.parametrize("settlement", [RETRY, DOUBT])
def test_a_late_doubt_says_nothing_new(settlement: Settlement) -> None:
    resolution = resolve(settlement, replace(TASK, fence=4), UNCERTAIN, now=NOW)
    assert (resolution.task, resolution.attempt) == (False, False)


@pytest.mark.parametrize("outcome", [AttemptOutcome.SUCCEEDED, AttemptOutcome.FAILED, AttemptOutcome.ABANDONED])
@pytest.mark.parametrize("settlement", [SUCCESS, RETRY, DOUBT, FAILURE])
def test_a_settled_attempt_stays_as_it_is(settlement: Settlement, outcome: AttemptOutcome) -> None:
    closed = replace(ATTEMPT, outcome=outcome)
    assert not resolve(settlement, replace(TASK, fence=4), closed, now=NOW).attempt


@pytest.mark.parametrize(
    ("outcome", "bill", "expected"),
    [
        (AttemptOutcome.OPEN, BILL, NO_COUNTS),
        (AttemptOutcome.ABANDONED, BILL, NO_COUNTS),
        (AttemptOutcome.FAILED, Bill(), Counts(attempts=1, attempts_failed=1)),
        (AttemptOutcome.UNCERTAIN, DOUBT.bill, Counts(attempts=1, attempts_uncertain=1, possible_cost_nano=90)),
        (AttemptOutcome.SUCCEEDED, Bill(prompt_tokens=4), Counts(attempts=1, attempts_unpriced=1, prompt_tokens=4)),
        (
            AttemptOutcome.SUCCEEDED,
            Bill(prompt_tokens=0, cost_nano=0, cost_estimated=True),
            Counts(attempts=1, attempts_estimated=1),
        ),
    ],
)
def test_what_a_closed_attempt_counts_for(outcome: AttemptOutcome, bill: Bill, expected: Counts) -> None:
    assert contribution(outcome, bill) == expected


counts = st.builds(Counts, **{name: st.integers(-(10**12), 10**12) for name in Counts.__dataclass_fields__})


@given(one=counts, other=counts)
def test_counts_add_and_subtract_like_numbers(one: Counts, other: Counts) -> None:
    assert one + other == other + one
    assert one + other - other == one
    assert one - one == NO_COUNTS


@pytest.mark.parametrize(
    ("settlement", "state", "fence", "outcome", "cancel"),
    list(product((SUCCESS, RETRY, DOUBT, FAILURE), TaskState, (3, 4), AttemptOutcome, (False, True))),
)
def test_the_accounts_move_exactly_with_the_rows(
    settlement: Settlement, state: TaskState, fence: int, outcome: AttemptOutcome, cancel: bool
) -> None:
    task = replace(TASK, state=state, fence=fence, cancel_requested=cancel)
    attempt = replace(ATTEMPT, outcome=outcome, bill=BILL if outcome is AttemptOutcome.SUCCEEDED else Bill())
    resolution = resolve(settlement, task, attempt, now=NOW)
    after = resolution.settlement
    expected = NO_COUNTS
    if resolution.attempt:
        expected += contribution(after.outcome, after.bill) - contribution(outcome, attempt.bill)
    if resolution.task and after.state.ended:
        succeeded = int(after.state is TaskState.SUCCEEDED)
        expected += Counts(tasks_succeeded=succeeded, tasks_failed=1 - succeeded)
    assert sum((booking.counts for booking in resolution.bookings), NO_COUNTS) == expected
    assert not (resolution.task and state.ended)
