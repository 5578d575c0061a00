"""What an attempt's outcome does to its task, its attempt and the accounts. Pure.

A Settlement is what someone who held a task says of it: a worker of its lease, the announcer of a dead
worker's, a canceller of a queued one. `resolve` compares it with the rows as they stand now, locked,
and says which of them it may change (docs/architecture.md: one settlement per lease, fenced; a late answer
settles its own attempt, and the task only while that is queued again).
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator
from dataclasses import field, fields, replace
from datetime import date, datetime
from uuid import UUID

from tollgate.domain import lanes
from tollgate.domain.fallbacks import Reroute
from tollgate.domain.states import AttemptOutcome, TaskState
from tollgate.domain.values import value


@value
class Bill:
    """What an attempt bought. Costs in nano-units; None: not known, or no price."""

    prompt_tokens: int | None = None
    cached_tokens: int | None = None
    completion_tokens: int | None = None
    engine_us: int | None = None
    """Its share of a local engine's time; None: not known, or not a local engine's."""
    price_id: str | None = None
    price_tier: str | None = None
    cost_nano: int | None = None
    cost_estimated: bool = False
    possible_cost_nano: int | None = None
    """The most that an attempt without an answer may have cost."""
    possible_tokens: int | None = None


BILL = tuple(f.name for f in fields(Bill))
billed = operator.attrgetter(*BILL)
"""A Bill as a tuple, in the order of BILL."""
NOTHING_BILLED = Bill()


@value
class Known:
    """What a claim tells of a task whose success needs nothing else to be read: no budget holds it, and nobody is told
    of its end."""

    project_id: UUID
    key_id: str
    model: str
    label: str | None
    batch_id: UUID | None
    upstream: str
    attempt_started_at: datetime


@value
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
    unanswered: bool = False
    """For OPEN: it was sent, and no answer came; the upstream may know its request_id."""
    hinted: bool = False
    """For QUEUED: the settler remembers to try again itself; the announcer need not hurry."""
    knows_id: bool = False
    """The settler knew the upstream's id of the call."""
    credential: str | None = None
    """With `unanswered`: the key it was sent with, which alone may send it again."""
    bill: Bill = NOTHING_BILLED
    http_status: int | None = None
    error_code: str | None = None
    error_message: str | None = None
    result: str | None = None
    """The upstream's answer, JSON, for SUCCEEDED."""
    counts_on_route: bool = False
    """The try is one of those that make a task leave its route."""
    reroute: Reroute | None = None
    """For QUEUED: the next attempt is bought elsewhere. This one is closed, unless there is none."""
    unbatched: bool = False
    """For QUEUED: the upstream batch it stood in did not answer it, and it runs by itself from now on. Unless something
    was billed it gives back what it reserves: it reserves anew when it is told."""
    otherwise: Settlement | None = None
    """With `reroute`: what becomes of it where it may not go there. None: nothing, it stays as it is."""
    known: Known | None = None
    """For SUCCEEDED: it can be settled as foreseen (`store.successes`)."""

    @property
    def refused(self) -> bool:
        """Its attempt is closed and was no purchase."""
        return self.outcome is AttemptOutcome.FAILED and self.bill == NOTHING_BILLED

    @property
    def releases(self) -> bool:
        """The task stays open, and gives back what it reserves."""
        return self.unbatched and self.refused and self.state is TaskState.QUEUED


@value
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
    charged_to: tuple[tuple[UUID, date], ...] = ()
    """The periods of budgets, by their first day, that hold its reservation and are charged what it costs."""
    reserved_nano: int = 0
    reserved_tokens: int = 0
    callback_url: str | None = None
    """Told of its end."""
    watched: bool = False
    """Its project has webhooks that may want to know, too. Of a batch they are told as a whole."""
    batch_id: UUID | None = None


@value
class AttemptRow:
    """The attempt as it stands, under its task's lock."""

    upstream: str
    outcome: AttemptOutcome
    started_at: datetime
    bill: Bill
    upstream_id: str | None = None
    """Set: the upstream has the call, whatever became of the lease."""
    unanswered: int = 0
    """Sends without an answer: the upstream may have the call."""

    @property
    def bought(self) -> bool:
        """Whether the upstream has it, or may have it."""
        return self.upstream_id is not None or self.unanswered > 0


@value
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
    engine_us: int = 0
    cost_nano: int = 0
    possible_cost_nano: int = 0

    def __add__(self, other: Counts) -> Counts:
        return self._each(operator.add, other)

    def __sub__(self, other: Counts) -> Counts:
        return self._each(operator.sub, other)

    def _each(self, operation: Callable[[int, int], int], other: Counts) -> Counts:
        return Counts(**dict(zip(COUNTS, map(operation, counted(self), counted(other)), strict=True)))


COUNTS = tuple(f.name for f in fields(Counts))
counted = operator.attrgetter(*COUNTS)
"""A Counts as a tuple, in the order of COUNTS. `dataclasses.astuple` copies deeply, at twenty times the price."""
NO_COUNTS = Counts()


@value
class Booking:
    """Counts and the roll-up row they belong to, less its shard."""

    hour: datetime
    project_id: UUID
    key_id: str
    model: str
    upstream: str
    label: str
    counts: Counts
    batch_id: UUID | None = None
    ended: TaskState | None = None
    """With the counts of a task's end: which end."""


@value
class Resolution:
    """What one settlement may change."""

    settlement: Settlement
    """As it takes effect: a retry of a task whose cancelling was asked is its cancel."""
    task: bool
    """The task takes `settlement.state`."""
    attempt: bool
    """The attempt takes `settlement.outcome` and bill."""
    bookings: tuple[Booking, ...] = field(default=())
    before: AttemptRow | None = None
    """The attempt as it stood."""
    late: bool = False
    """By a lease that was lost. A task it ends may have a newer attempt open, which then is for nothing."""


def resolve(given: Settlement, task: TaskRow, attempt: AttemptRow | None, *, now: datetime) -> Resolution:
    """Decide by the rows as they stand. `attempt` is None for a task that never ran."""
    if given.reroute is not None and not _may_leave(given, attempt):
        return stays(given, lambda other: resolve(other, task, attempt, now=now))
    holds = task.state is given.held and task.fence == given.fence
    settlement = _as_bought(_with_cancel(_with_its_id(given, attempt), task), attempt) if holds else given
    late = not holds and _answers_late(given, attempt)
    takes_task = holds or (late and task.state is TaskState.QUEUED and given.outcome is AttemptOutcome.SUCCEEDED)
    takes_attempt = attempt is not None and (late or (holds and attempt.outcome is AttemptOutcome.OPEN))
    return Resolution(
        settlement=settlement,
        task=takes_task,
        attempt=takes_attempt,
        bookings=tuple(_bookings(settlement, task, attempt, takes_task, takes_attempt, now)),
        before=attempt,
        late=late,
    )


def foreseen(given: Settlement, known: Known, *, now: datetime) -> Resolution:
    """What `resolve` makes of a success whose rows stand as they were claimed, at a third of its price: what was bought
    and the end are booked as one where they fall into the same hour."""

    def book(hour: datetime, counts: Counts, ended: TaskState | None = None) -> Booking:
        return Booking(
            hour=hour,
            project_id=known.project_id,
            key_id=known.key_id,
            model=known.model,
            upstream=known.upstream,
            label=known.label or "",
            counts=counts,
            batch_id=known.batch_id,
            ended=ended,
        )

    began, ended = _hour(known.attempt_started_at), _hour(now)
    bookings: tuple[Booking, ...]
    if began == ended:
        bookings = (book(ended, contribution(given.outcome, given.bill, tasks_succeeded=1), given.state),)
    else:
        bought = book(began, contribution(given.outcome, given.bill))
        bookings = (bought, book(ended, Counts(tasks_succeeded=1), given.state))
    return Resolution(settlement=given, task=True, attempt=True, bookings=bookings)


def stays(given: Settlement, decide: Callable[[Settlement], Resolution]) -> Resolution:
    """A task that may not go to the route it was to go to: by what was to be otherwise."""
    return decide(given.otherwise) if given.otherwise else Resolution(settlement=given, task=False, attempt=False)


def leaves_home(given: Settlement) -> bool:
    """Whether the task is to be bought elsewhere than on one's own devices."""
    return given.reroute is not None and lanes.place_of(given.reroute.lane) != "local"


def _may_leave(given: Settlement, attempt: AttemptRow | None) -> bool:
    """An attempt is of one upstream: an open one must be closed first. And nothing is left behind as refused that the
    upstream has, or may have: its id may have come in meanwhile."""
    if attempt is None or attempt.outcome is not AttemptOutcome.OPEN:
        return True
    return given.outcome is not AttemptOutcome.OPEN and not (given.refused and attempt.bought)


def abandoned(settlement: Settlement, task: TaskRow, attempt: AttemptRow, *, now: datetime) -> Resolution:
    """Of an open attempt under a task that a late answer of an earlier one has just ended: `settlement` names it."""
    closed = _as_bought(replace(settlement, outcome=AttemptOutcome.ABANDONED), attempt)
    bookings = tuple(_bookings(closed, task, attempt, False, True, now))
    return Resolution(settlement=closed, task=False, attempt=True, bookings=bookings, before=attempt, late=True)


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
        reroute=None,
    )


def _as_bought(given: Settlement, attempt: AttemptRow | None) -> Settlement:
    """Nothing is abandoned that the upstream has, or may have: it runs there, and may be billed. What it may cost was
    noted when it was sent, and stays noted while the attempt is open."""
    if attempt is None:
        return given
    bill = attempt.bill if given.bill == NOTHING_BILLED else given.bill
    if given.outcome is AttemptOutcome.OPEN:
        return replace(given, bill=bill)
    if given.outcome is AttemptOutcome.ABANDONED and (attempt.bought or given.unanswered):
        return replace(given, outcome=AttemptOutcome.UNCERTAIN, unanswered=False, bill=bill)
    return given


def _with_its_id(given: Settlement, attempt: AttemptRow | None) -> Settlement:
    """Its id came in meanwhile, from the worker that held it before: then it is not lost, and is polled."""
    unknown = attempt is not None and attempt.upstream_id is not None and not given.knows_id
    gives_up = given.state in (TaskState.QUEUED, TaskState.FAILED)
    if attempt is None or not unknown or not gives_up or given.outcome is not AttemptOutcome.UNCERTAIN:
        return given
    return replace(
        given,
        state=TaskState.QUEUED,
        outcome=AttemptOutcome.OPEN,
        not_before=None,
        hinted=False,
        counts_as_try=False,
        reroute=None,
        bill=attempt.bill,
    )


def _answers_late(given: Settlement, attempt: AttemptRow | None) -> bool:
    """A lost lease's answer still says what its own purchase came to, once. A refusal only says it of its own send:
    where others went unanswered, it is the bill's to say (which holds no fence)."""
    if attempt is None or attempt.outcome is not AttemptOutcome.UNCERTAIN:
        return False
    if given.outcome is AttemptOutcome.FAILED:
        return given.fence < 0 or attempt.unanswered == 0 or given.bill != NOTHING_BILLED
    return given.outcome is AttemptOutcome.SUCCEEDED


def _bookings(
    settlement: Settlement,
    task: TaskRow,
    attempt: AttemptRow | None,
    takes_task: bool,
    takes_attempt: bool,
    now: datetime,
) -> Iterator[Booking]:
    def book(at: datetime, counts: Counts, ended: TaskState | None = None) -> Booking:
        return Booking(
            hour=_hour(at),
            project_id=task.project_id,
            key_id=task.key_id,
            model=task.model,
            upstream=attempt.upstream if attempt else "",
            label=task.label or "",
            counts=counts,
            batch_id=task.batch_id,
            ended=ended,
        )

    if takes_attempt and attempt is not None:
        change, before = contribution(settlement.outcome, settlement.bill), contribution(attempt.outcome, attempt.bill)
        if before is not NO_COUNTS:
            change -= before
        if change != NO_COUNTS:
            yield book(attempt.started_at, change)
    if takes_task and settlement.state.ended:
        succeeded = settlement.state is TaskState.SUCCEEDED
        counts = Counts(tasks_succeeded=int(succeeded), tasks_failed=int(not succeeded))
        yield book(now, counts, settlement.state)


def _hour(at: datetime) -> datetime:
    return at.replace(minute=0, second=0, microsecond=0)


def contribution(outcome: AttemptOutcome, bill: Bill, *, tasks_succeeded: int = 0) -> Counts:
    """What a closed attempt adds to the roll-up, with the task that it ends, if any; an open or abandoned one adds
    nothing."""
    if outcome in (AttemptOutcome.OPEN, AttemptOutcome.ABANDONED):
        return NO_COUNTS
    has_usage = bill.prompt_tokens is not None
    return Counts(
        tasks_succeeded=tasks_succeeded,
        attempts=1,
        attempts_failed=int(outcome is AttemptOutcome.FAILED),
        attempts_uncertain=int(outcome is AttemptOutcome.UNCERTAIN),
        attempts_unpriced=int(has_usage and bill.cost_nano is None),
        attempts_estimated=int(bill.cost_estimated),
        prompt_tokens=bill.prompt_tokens or 0,
        cached_tokens=bill.cached_tokens or 0,
        completion_tokens=bill.completion_tokens or 0,
        engine_us=bill.engine_us or 0,
        cost_nano=bill.cost_nano or 0,
        possible_cost_nano=bill.possible_cost_nano or 0,
    )
