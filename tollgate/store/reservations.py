"""What tasks hold in budgets: reserved when they are accepted, charged when they are settled, in the same transactions.

A task names the budgets that there were when it came, and only those are charged, in the periods of that day:
a budget made, changed or removed meanwhile never has to guess. Periods are locked after the tasks.
"""

from __future__ import annotations

import functools
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime
from typing import Any, Protocol
from uuid import UUID

import sqlalchemy as sa

from tollgate.domain.budgets import NOTHING, Amounts, Budget, Period, charged, fits, refusal, remaining, told, unpriced
from tollgate.domain.errors import BudgetExceededError, RateLimitedError
from tollgate.domain.prices import PriceTable, worst_case_nano
from tollgate.domain.settling import Resolution, Settlement, TaskRow, stays
from tollgate.domain.states import AttemptOutcome, TaskState
from tollgate.store import periods, rows
from tollgate.store.database import ReadConnection, WriteConnection, dialect_of
from tollgate.store.periods import PeriodKey, Standing
from tollgate.store.schema import attempts, budget_periods, budgets, tasks

OUT_OF_BUDGET = "budget_exceeded"
"""Error code of a task that no budget lets buy once more."""
RESERVED = rows.Given.of(tasks, "id", "reserved_nano", "reserved_tokens", "charged_to", name="reserved")
IDS = rows.Given.of(tasks, "id")
PROJECTS = rows.Given.of(budgets, "project_id")
BATCHES = rows.Given.of(budgets, "batch_id", name="batches")
BEGINNINGS = rows.Given.of(budget_periods, "starts_on", name="beginnings")
Held = tuple[Amounts, tuple[PeriodKey, ...]]
"""What a task reserves, and where."""


class Purchase(Protocol):
    """What a reservation looks at: a new task, or a batch's line that is about to be told to workers."""

    @property
    def id(self) -> UUID: ...
    @property
    def project_id(self) -> UUID: ...
    @property
    def key_id(self) -> str: ...
    @property
    def batch_id(self) -> UUID | None: ...
    @property
    def model(self) -> str: ...
    @property
    def route(self) -> str: ...
    @property
    def created_at(self) -> datetime:
        """Its day says in which periods it counts, and at which price."""

    @property
    def prompt_tokens_estimate(self) -> int: ...
    @property
    def most_completion_tokens(self) -> int: ...
    @property
    def most_tokens(self) -> int: ...


@dataclass(slots=True, kw_only=True)
class Plan:
    """Which submissions fit, decided under the lock of their budgets' rows."""

    known: Sequence[Budget] = ()
    """All of their projects, and of their batches."""
    refused: dict[int, BudgetExceededError | RateLimitedError] = field(default_factory=dict)
    """By the submission's position."""
    in_flight_left: dict[int, int] = field(default_factory=dict)
    """By position, of those that fit and whose key has a limit of tasks in flight."""
    held: dict[UUID, Held] = field(default_factory=dict)
    """By task, of those that fit."""
    full: dict[int, Standing] = field(default_factory=dict)
    """By position, of those refused for want of room: the budget that had none, and what stands in it."""


def periods_of(text: str | None) -> tuple[PeriodKey, ...]:
    """Of `tasks.charged_to`."""
    if not text:
        return ()
    parts = (part.partition("@") for part in text.split(","))
    return tuple((UUID(budget_id), date.fromisoformat(day)) for budget_id, _, day in parts)


def text_of(keys: Iterable[PeriodKey]) -> str:
    return ",".join(f"{budget_id.hex}@{day.isoformat()}" for budget_id, day in keys)


async def plan(
    connection: WriteConnection,
    submissions: Mapping[int, Sequence[Purchase]],
    *,
    prices: PriceTable,
    batch: bool = False,
) -> Plan:
    """Decide for the new tasks of each submission, in order, whether they fit; nothing is reserved yet. `batch`: they
    are bought at the batch price."""
    known, opened = await _budgets_of(connection, [task for new in submissions.values() for task in new])
    made = Plan(known=known)
    asked = {}
    for position, new in submissions.items():
        try:
            asked[position] = wanted(new, known, prices, batch=batch)
        except BudgetExceededError as error:
            made.refused[position] = error
    keys = {key for held in asked.values() for _, where in held.values() for key in where}
    if keys:
        await periods.begin(connection, keys - opened)
        _allot(made, asked, await periods.lock(connection, keys))
    return made


def _allot(made: Plan, wishes: Mapping[int, dict[UUID, Held]], stands: dict[PeriodKey, Standing]) -> None:
    """First come, first served. A budget that was removed meanwhile refuses nobody."""
    for position, held in wishes.items():
        asked = {key: amounts for key, amounts in sums(held.values()).items() if key in stands}
        full = next((key for key in sorted(asked) if not fits(*stands[key], asked=asked[key])), None)
        if full is not None:
            made.refused[position] = refusal(*stands[full], asked=asked[full])
            made.full[position] = stands[full]
            continue
        made.held |= held
        for key, amounts in asked.items():
            budget, before = stands[key]
            stands[key] = (budget, before + amounts)
            if budget.key_id is not None and budget.limit_tasks is not None:
                made.in_flight_left[position] = budget.limit_tasks - stands[key][1].reserved_tasks


async def keep(connection: WriteConnection, made: Plan, task_ids: Collection[UUID]) -> None:
    """Reserve what `plan` decided for those of `task_ids` that any budget counts."""
    held = {task_id: made.held[task_id] for task_id in sorted(task_ids) if task_id in made.held}
    if not held:
        return
    values = [
        (task_id, amounts.reserved_nano, amounts.reserved_tokens, text_of(where))
        for task_id, (amounts, where) in held.items()
    ]
    reserving = rows.Step(_reserving, RESERVED, values)
    await rows.execute_together(connection, periods.adding(sums(held.values())), reserving)


async def release(connection: WriteConnection, task_ids: Sequence[UUID]) -> None:
    """Give back what those of `task_ids` hold, locked, of which nothing was ever bought. They name no budget then."""
    found = (await rows.execute(connection, _unbegun, IDS, [(i,) for i in sorted(task_ids)])).all()
    changes: defaultdict[PeriodKey, Amounts] = defaultdict(lambda: NOTHING)
    for row in found:
        held = Amounts(reserved_nano=row.reserved_nano or 0, reserved_tokens=row.reserved_tokens or 0, reserved_tasks=1)
        for key in periods_of(row.charged_to):
            changes[key] -= held
    stands = await periods.lock(connection, changes)
    freed = periods.adding({key: amounts for key, amounts in changes.items() if key in stands})
    releasing = rows.Step(_reserving, RESERVED, [(row.id, None, None, None) for row in found])
    await rows.execute_together(connection, freed, releasing)


def _unbegun(dialect: str) -> rows.Statement:
    held = sa.select(tasks.c.id, tasks.c.reserved_nano, tasks.c.reserved_tokens, tasks.c.charged_to)
    named = tasks.c.id.in_(sa.select(IDS.table(dialect).c.id))
    bought = sa.exists().where(attempts.c.task_id == tasks.c.id)
    return held.where(named, tasks.c.charged_to.is_not(None), sa.not_(bought))


def _reserving(dialect: str) -> rows.Statement:
    given = RESERVED.table(dialect)
    names = ("reserved_nano", "reserved_tokens", "charged_to")
    return sa.update(tasks).where(tasks.c.id == given.c.id).values({name: given.c[name] for name in names})


async def charge(
    connection: WriteConnection,
    resolutions: Sequence[Resolution],
    locked: Mapping[UUID, TaskRow],
    *,
    decide: Callable[[Settlement], Resolution] | None = None,
) -> list[Resolution]:
    """Turn reservations into costs. A task whose next purchase no longer fits fails instead: `decide` says how."""
    # Also of those that will change nothing: a later round of this transaction, of the same tasks, then finds all its
    # periods locked, and takes none out of order.
    keys = {key for r in resolutions for key in _keys(r, locked)}
    if not keys:
        return list(resolutions)
    stands = await periods.lock(connection, keys)
    changes: defaultdict[PeriodKey, Amounts] = defaultdict(lambda: NOTHING)
    amended = []
    for resolution in resolutions:
        kept = resolution
        while decide and _buys_again(kept) and (full := _full(kept, locked, stands, changes)):
            kept = _not_bought(kept.settlement, decide, stands[full])
        for key in _keys(kept, locked):
            changes[key] += _change(kept, locked)
        amended.append(kept)
    known = {key: amounts for key, amounts in changes.items() if key in stands}
    await rows.execute_together(connection, periods.adding(known))
    return amended


def _keys(resolution: Resolution, locked: Mapping[UUID, TaskRow]) -> tuple[PeriodKey, ...]:
    task = locked.get(resolution.settlement.task_id)
    return task.charged_to if task is not None else ()


def _change(resolution: Resolution, locked: Mapping[UUID, TaskRow]) -> Amounts:
    """The attempt's reservation becomes its cost; the task's goes when it ends."""
    settlement, task, change = resolution.settlement, locked[resolution.settlement.task_id], NOTHING
    if resolution.attempt and resolution.before is not None:
        before = resolution.before
        change += charged(settlement.outcome, settlement.bill) - charged(before.outcome, before.bill)
    if resolution.task and (settlement.state.ended or settlement.releases):
        change -= _reserved(task)
    if resolution.task and settlement.reroute is not None:
        change += _next(resolution, task) - _reserved(task)
    return change


def _buys_again(resolution: Resolution) -> bool:
    """What goes elsewhere is bought there, at that price."""
    settlement = resolution.settlement
    anew = settlement.outcome is not AttemptOutcome.OPEN or settlement.reroute is not None
    return resolution.task and settlement.state is TaskState.QUEUED and anew and not settlement.releases


def _full(
    resolution: Resolution,
    locked: Mapping[UUID, TaskRow],
    stands: Mapping[PeriodKey, Standing],
    changes: Mapping[PeriodKey, Amounts],
) -> PeriodKey | None:
    """The first period with no room for another purchase beside what the last one cost, or may have."""
    asked = _next(resolution, locked[resolution.settlement.task_id])
    reroute = resolution.settlement.reroute
    for key in _keys(resolution, locked):
        if key in stands:
            budget, amounts = stands[key]
            others = amounts + changes.get(key, NOTHING) + _change(resolution, locked) - asked
            unpriced_there = reroute is not None and reroute.reserved_nano is None and budget.limit_nano is not None
            # It is in flight already, and stays so where that limit was lowered meanwhile.
            if unpriced_there or not fits(budget, others, asked=replace(asked, reserved_tasks=0)):
                return key
    return None


def _next(resolution: Resolution, task: TaskRow) -> Amounts:
    """What the task's next purchase reserves."""
    held, reroute = _reserved(task), resolution.settlement.reroute
    if reroute is None:
        return held
    return replace(held, reserved_nano=reroute.reserved_nano or 0, reserved_tokens=reroute.reserved_tokens)


def _not_bought(settlement: Settlement, decide: Callable[[Settlement], Resolution], full: Standing) -> Resolution:
    """No room: a task stays on its route, where it has its place already; one that must buy there anew fails."""
    return decide(_out_of_budget(settlement, *full)) if settlement.reroute is None else stays(settlement, decide)


def _reserved(task: TaskRow) -> Amounts:
    return Amounts(
        reserved_nano=task.reserved_nano, reserved_tokens=task.reserved_tokens, reserved_tasks=int(not task.state.ended)
    )


def _out_of_budget(settlement: Settlement, budget: Budget, stands: Amounts) -> Settlement:
    left = " and ".join(f"{kind} {amount}" for kind, amount in remaining(budget, stands).items())
    why = f"not tried again: {told(budget)} has no room to buy it once more (left: {left})"
    message = f"{settlement.error_message} ({why})" if settlement.error_message else why
    return replace(
        settlement, state=TaskState.FAILED, not_before=None, hinted=False,
        error_code=settlement.error_code or OUT_OF_BUDGET, error_message=message,
    )  # fmt: skip


def wanted(
    new: Sequence[Purchase], known: Sequence[Budget], prices: PriceTable, *, batch: bool = False
) -> dict[UUID, Held]:
    """By task, of those that any budget of `known` counts. Raises BudgetExceededError for one without a price."""
    counting = functools.cache(functools.partial(_counting, known))
    held: dict[UUID, Held] = {}
    for task in new:
        where, in_money = counting(task.project_id, task.key_id, task.batch_id, _day_of(task))
        if where:
            held[task.id] = (_most(task, prices, in_money=in_money, batch=batch), where)
    return held


def _counting(
    known: Sequence[Budget], project_id: UUID, key_id: str, batch_id: UUID | None, day: date
) -> tuple[tuple[PeriodKey, ...], bool]:
    """The periods that count a task of these, and whether any of them is limited in money."""
    covering = [b for b in known if b.project_id == project_id and b.covers(key_id, batch_id)]
    where = tuple(sorted((budget.id, budget.period.starts_on(day)) for budget in covering))
    return where, any(budget.limit_nano is not None for budget in covering)


def _most(task: Purchase, prices: PriceTable, *, in_money: bool, batch: bool) -> Amounts:
    """The most one purchase of it can come to. Raises BudgetExceededError: without a price nobody could say."""
    upstream, _, model = task.route.partition("/")
    price = prices.find(upstream, model, at=task.created_at)
    if price is None and in_money:
        raise unpriced(task.model)
    nano = price and worst_case_nano(
        price,
        prompt_tokens=task.prompt_tokens_estimate,
        completion_tokens=task.most_completion_tokens,
        batch=batch,
    )
    return Amounts(reserved_nano=nano or 0, reserved_tokens=task.most_tokens, reserved_tasks=1)


def sums(held: Iterable[Held]) -> dict[PeriodKey, Amounts]:
    """What they come to in each period."""
    found: defaultdict[PeriodKey, Amounts] = defaultdict(lambda: NOTHING)
    for amounts, where in held:
        for key in where:
            found[key] += amounts
    return dict(found)


def _day_of(task: Purchase) -> date:
    return task.created_at.astimezone(UTC).date()


async def _budgets_of(connection: ReadConnection, new: Sequence[Purchase]) -> tuple[list[Budget], set[PeriodKey]]:
    """Of the projects and batches of `new`; and which of the periods that they may count in have rows."""
    if not new:
        return [], set()
    project_ids = sorted({task.project_id for task in new})
    begins = {period.starts_on(day) for day in {_day_of(task) for task in new} for period in Period}
    dialect = dialect_of(connection)
    bound = BEGINNINGS.bind(dialect, [(day,) for day in sorted(begins)])
    bound |= BATCHES.bind(dialect, [(i,) for i in sorted({task.batch_id for task in new if task.batch_id})])
    found = (await rows.execute(connection, _of_projects, PROJECTS, [(i,) for i in project_ids], **bound)).all()
    known = {row.id: periods.budget_of(row) for row in found}
    return list(known.values()), {(row.id, row.starts_on) for row in found if row.starts_on is not None}


def _of_projects(dialect: str) -> rows.Statement:
    given, days, theirs = PROJECTS.table(dialect), BEGINNINGS.table(dialect), BATCHES.table(dialect)
    opened = sa.and_(
        budget_periods.c.budget_id == budgets.c.id, budget_periods.c.starts_on.in_(sa.select(days.c.starts_on))
    )

    def covering(*which: sa.ColumnElement[bool]) -> sa.Select[Any]:
        return (
            sa.select(*(budgets.c[name] for name in periods.DEFINITION), budget_periods.c.starts_on)
            .select_from(budgets.outerjoin(budget_periods, opened))
            .where(*which)
        )

    # Each by an index of its own: a project's batches of years are many, and none of the other's business.
    of_all = covering(budgets.c.project_id.in_(sa.select(given.c.project_id)), budgets.c.batch_id.is_(None))
    return sa.union_all(of_all, covering(budgets.c.batch_id.in_(sa.select(theirs.c.batch_id))))
