"""What an attempt's outcome does to its task, its attempt and the accounts. Pure.

A Settlement is what someone who held a task says of it: a worker of its lease, the announcer of a dead
worker's, a canceller of a queued one. `resolve` compares it with the rows as they stand now, locked,
and says which of them it may change (docs/architecture.md: one settlement per lease, fenced; a late answer
settles its own attempt, and the task only while that is queued again).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, fields, replace
from datetime import datetime
from uuid import UUID

from tollgate.domain.states import AttemptOutcome, TaskState


@dataclass(frozen=True, slots=True, kw_only=True)
class Bill:
    """What an attempt bought. Costs in nano-units; None: not known, or no price."""

    prompt_tokens: int | None = None
    cached_tokens: int | None = None
    completion_tokens: int | None = None
    price_id: str | None = None
    price_tier: str | None = None
    cost_nano: int | None = None
    cost_estimated: bool = False
    possible_cost_nano: int | None = None


NOTHING_BILLED = Bill()


@dataclass(frozen=True, slots=True, kw_only=True)
class Settlement:
    """One lease's account of one task."""

    task_id: UUID
    fence: int
    attempt: int
    outcome: AttemptOutcome
    """OPEN: refused for now, or not sent; the same purchase is repeated later."""
    state: TaskState
    """What the task becomes: an end, or QUEUED."""
    held: TaskState = TaskState.RUNNING
    """The state in which the settler holds it: QUEUED for a cancel or an expiry."""
    not_before: datetime | None = None
    """For QUEUED: when it is due again."""
    counts_as_try: bool = True
    hinted: bool = False
    """For QUEUED: the settler remembers to try again itself; the announcer need not hurry."""
    bill: Bill = NOTHING_BILLED
    http_status: int | None = None
    error_code: str | None = None
    error_message: str | None = None
    result: str | None = None
    """The upstream's answer, JSON, for SUCCEEDED."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskRow:
    """The task as it stands, locked."""

    id: UUID
    project_id: UUID
    key_id: str
    model: str
    label: str | None
    state: TaskState
    fence: int
    cancel_requested: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptRow:
    """The attempt as it stands, under its task's lock."""

    upstream: str
    outcome: AttemptOutcome
    started_at: datetime
    bill: Bill
    upstream_id: str | None = None
    """Set: the upstream has the call, whatever became of the lease."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """A change of one row of the hourly roll-up; the fields are its columns."""

    tasks_succeeded: int = 0
    tasks_failed: int = 0
    attempts: int = 0
    attempts_failed: int = 0
    attempts_uncertain: int = 0
    attempts_unpriced: int = 0
    attempts_estimated: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    cost_nano: int = 0
    possible_cost_nano: int = 0

    def __add__(self, other: Counts) -> Counts:
        return Counts(**{f.name: getattr(self, f.name) + getattr(other, f.name) for f in fields(Counts)})

    def __sub__(self, other: Counts) -> Counts:
        return Counts(**{f.name: getattr(self, f.name) - getattr(other, f.name) for f in fields(Counts)})


NO_COUNTS = Counts()


@dataclass(frozen=True, slots=True, kw_only=True)
class Booking:
    """Counts and the roll-up row they belong to, less its shard."""

    hour: datetime
    project_id: UUID
    key_id: str
    model: str
    upstream: str
    label: str
    counts: Counts


@dataclass(frozen=True, slots=True, kw_only=True)
class Resolution:
    """What one settlement may change."""

    settlement: Settlement
    """As it takes effect: a retry of a task whose cancelling was asked is its cancel."""
    task: bool
    """The task takes `settlement.state`."""
    attempt: bool
    """The attempt takes `settlement.outcome` and bill."""
    bookings: tuple[Booking, ...] = field(default=())
    late: bool = False
    """By a lease that was lost. A task it ends may have a newer attempt open, which then is for nothing."""


def resolve(given: Settlement, task: TaskRow, attempt: AttemptRow | None, *, now: datetime) -> Resolution:
    """Decide by the rows as they stand. `attempt` is None for a task that never ran."""
    holds = task.state is given.held and task.fence == given.fence
    settlement = _as_bought(_with_cancel(given, task), attempt) if holds else given
    late = not holds and _answers_late(given, attempt)
    takes_task = holds or (late and task.state is TaskState.QUEUED and given.outcome is AttemptOutcome.SUCCEEDED)
    takes_attempt = attempt is not None and (late or (holds and attempt.outcome is AttemptOutcome.OPEN))
    return Resolution(
        settlement=settlement,
        task=takes_task,
        attempt=takes_attempt,
        bookings=tuple(_bookings(settlement, task, attempt, takes_task, takes_attempt, now)),
        late=late,
    )


def _with_cancel(given: Settlement, task: TaskRow) -> Settlement:
    if not (task.cancel_requested and given.state is TaskState.QUEUED):
        return given
    outcome = AttemptOutcome.ABANDONED if given.outcome is AttemptOutcome.OPEN else given.outcome
    return replace(
        given,
        state=TaskState.CANCELLED,
        outcome=outcome,
        error_code="cancelled",
        error_message="cancelled at its owner's request",
    )


def _as_bought(given: Settlement, attempt: AttemptRow | None) -> Settlement:
    """Nothing is abandoned that the upstream has by an id: it runs there, and may be billed."""
    bought = attempt is not None and attempt.upstream_id is not None
    if bought and given.outcome is AttemptOutcome.ABANDONED:
        return replace(given, outcome=AttemptOutcome.UNCERTAIN)
    return given


def _answers_late(given: Settlement, attempt: AttemptRow | None) -> bool:
    """A lost lease's answer still says what its own purchase came to, once."""
    definite = given.outcome in (AttemptOutcome.SUCCEEDED, AttemptOutcome.FAILED)
    return definite and attempt is not None and attempt.outcome is AttemptOutcome.UNCERTAIN


def _bookings(
    settlement: Settlement,
    task: TaskRow,
    attempt: AttemptRow | None,
    takes_task: bool,
    takes_attempt: bool,
    now: datetime,
) -> Iterator[Booking]:
    def book(at: datetime, counts: Counts) -> Booking:
        return Booking(
            hour=at.replace(minute=0, second=0, microsecond=0),
            project_id=task.project_id,
            key_id=task.key_id,
            model=task.model,
            upstream=attempt.upstream if attempt else "",
            label=task.label or "",
            counts=counts,
        )

    if takes_attempt and attempt is not None:
        change = contribution(settlement.outcome, settlement.bill) - contribution(attempt.outcome, attempt.bill)
        if change != NO_COUNTS:
            yield book(attempt.started_at, change)
    if takes_task and settlement.state.ended:
        succeeded = settlement.state is TaskState.SUCCEEDED
        yield book(now, Counts(tasks_succeeded=int(succeeded), tasks_failed=int(not succeeded)))


def contribution(outcome: AttemptOutcome, bill: Bill) -> Counts:
    """What a closed attempt adds to the roll-up; an open or abandoned one adds nothing."""
    if outcome in (AttemptOutcome.OPEN, AttemptOutcome.ABANDONED):
        return NO_COUNTS
    billed = bill.prompt_tokens is not None
    return Counts(
        attempts=1,
        attempts_failed=int(outcome is AttemptOutcome.FAILED),
        attempts_uncertain=int(outcome is AttemptOutcome.UNCERTAIN),
        attempts_unpriced=int(billed and bill.cost_nano is None),
        attempts_estimated=int(bill.cost_estimated),
        prompt_tokens=bill.prompt_tokens or 0,
        cached_tokens=bill.cached_tokens or 0,
        completion_tokens=bill.completion_tokens or 0,
        cost_nano=bill.cost_nano or 0,
        possible_cost_nano=bill.possible_cost_nano or 0,
    )
