"""What an intake foresees of budgets, so that it reserves as it inserts, in one statement instead of four.

Which budgets cover a key's tasks is known from the last transaction that read them. The statement that inserts tasks
writes into their rows what they reserve, adds it to the periods if there is room, and tells which budgets cover them
now. Where anything is not as foreseen nothing of it may stay, and the budgets are read (`reservations`). It is for
PostgreSQL: on SQLite a statement costs no way there and back.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from uuid import UUID

from tollgate.domain.budgets import VALUES, Amounts, Budget
from tollgate.domain.errors import BudgetExceededError
from tollgate.domain.prices import PriceTable
from tollgate.domain.tasks import NewTask
from tollgate.store import reservations
from tollgate.store.labels import Label
from tollgate.store.periods import PeriodKey
from tollgate.store.reservations import Held, Plan

Payer = tuple[UUID, str]
"""Project and key: whose budgets count a task."""
IN_MONEY = "$"
MOST_PASSES = 64
MOST_LABELS = 100_000
"""Kept, of all projects together."""
MOST_SUMMED = 2**62
"""More together with what stands may be more than a column holds."""


class UnforeseenError(Exception):
    """A budget is new, gone or of another kind, a period begins or has no room, or a request_id is taken."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reserving:
    """What tasks are to reserve."""

    held: Mapping[UUID, Held]
    """By task, of those that a budget counts."""
    changes: Mapping[PeriodKey, Amounts]
    covering: Mapping[Payer, str | None]
    """As the inserting statement tells it: the budgets as `named`, in the order of their ids."""

    def columns_of(self, task_id: UUID) -> tuple[int | None, int | None, str | None]:
        """`reserved_nano`, `reserved_tokens` and `charged_to`."""
        if task_id not in self.held:
            return None, None, None
        amounts, where = self.held[task_id]
        return amounts.reserved_nano, amounts.reserved_tokens, reservations.text_of(where)

    def is_as_told(self, new: Sequence[NewTask], told: Mapping[UUID, str | None]) -> bool:
        """Whether all of `new` were inserted, each under the budgets that were foreseen."""
        return len(told) == len(new) and all(told[task.id] == self.covering[payer_of(task)] for task in new)


def named(budget: Budget) -> str:
    """Its id, with a mark where it limits money: then a task without a price must be refused."""
    return f"{budget.id}{'' if budget.limit_nano is None else IN_MONEY}"


class Foresight:
    """One process's. Of a payer it has not met it foresees no budget."""

    def __init__(self) -> None:
        self._budgets: dict[Payer, tuple[Budget, ...] | None] = {}
        """None: they are to be read each time."""
        self._labels: set[Label] = set()
        """Committed ones. A new one would have to be waited for, with a period locked."""
        self.misses = 0
        """One after another."""
        self._passes = 0
        """So many transactions are not foreseen: one that is taken back was paid for twice, and leaves dead rows."""

    def of(self, new: Sequence[NewTask], *, prices: PriceTable) -> Reserving | None:
        """What `new` are to reserve; None where the budgets are to be read, or none is known of."""
        known: dict[Payer, tuple[Budget, ...]] = {}
        for payer in set(map(payer_of, new)):
            budgets = self._budgets.get(payer, ())
            if budgets is None:
                return None
            known[payer] = budgets
        if not any(known.values()) or not self._labels.issuperset(_labels_of(new)):
            return None
        if self._passes:
            self._passes -= 1
            return None
        every = {budget.id: budget for budgets in known.values() for budget in budgets}
        try:
            held = reservations.wanted(new, list(every.values()), prices)
        except BudgetExceededError:
            return None
        changes = reservations.sums(held.values())
        if any(max(VALUES(amounts)) > MOST_SUMMED for amounts in changes.values()):
            return None
        covering = {payer: ",".join(map(named, budgets)) or None for payer, budgets in known.items()}
        return Reserving(held=held, changes=changes, covering=covering)

    def is_plain(self, task: NewTask) -> bool:
        """Whether no budget is known to count it, foreseen or not, and its project has its label already."""
        known_label = task.label is None or (task.project_id, task.label) in self._labels
        return known_label and payer_of(task) not in self._budgets

    def hit(self) -> None:
        """It was as foreseen."""
        self.misses = 0

    def missed(self, new: Iterable[NewTask]) -> None:
        """It was not, and was taken back: the same budgets are not foreseen again before they are read, and nothing is
        for a while, which doubles with each miss."""
        self.misses += 1
        self._passes = min(MOST_PASSES, 2**self.misses)
        for payer in set(map(payer_of, new)):
            self._budgets.pop(payer, None)

    def learn(self, new: Mapping[int, Sequence[NewTask]], plan: Plan) -> None:
        """What was read for `new`, by submission. Where one did not fit its payer's budgets are read until all do. They
        are always read where they limit tasks in flight, since the answer tells what is left."""
        full = {payer_of(task) for position in plan.full for task in new[position]}
        for payer in {payer_of(task) for tasks in new.values() for task in tasks}:
            theirs = [b for b in plan.known if b.project_id == payer[0] and b.covers(payer[1])]
            if not theirs:
                self._budgets.pop(payer, None)
            elif payer in full or any(budget.limit_tasks is not None for budget in theirs):
                self._budgets[payer] = None
            else:
                self._budgets[payer] = tuple(sorted(theirs, key=lambda budget: budget.id))

    def learn_labels(self, committed: Iterable[Label]) -> None:
        """A committed label is never taken back."""
        if len(self._labels) > MOST_LABELS:
            self._labels.clear()
        self._labels.update(committed)

    @property
    def knows(self) -> bool:
        """Whether it has anything to unlearn."""
        return bool(self._budgets)


def payer_of(task: NewTask) -> Payer:
    return task.project_id, task.key_id


def _labels_of(new: Iterable[NewTask]) -> Iterator[Label]:
    return ((task.project_id, task.label) for task in new if task.label is not None)
