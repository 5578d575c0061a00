"""What an intake foresees of budgets, so that it reserves as it inserts, in one statement instead of four.

Which budgets cover a key's tasks is known from the last transaction that read them. The statement that inserts tasks
writes into their rows what they reserve, adds it to the periods if there is room, and tells which budgets cover them
now. Where anything is not as foreseen nothing of it may stay, and the budgets are read (`reservations`). PostgreSQL's:
on SQLite a statement costs no way there and back.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from uuid import UUID

from tollgate.domain.budgets import Amounts, Budget
from tollgate.domain.errors import BudgetExceededError
from tollgate.domain.prices import PriceTable
from tollgate.domain.tasks import NewTask
from tollgate.store import reservations
from tollgate.store.periods import PeriodKey
from tollgate.store.reservations import Held

Payer = tuple[UUID, str]
"""Project and key: whose budgets count a task."""


class UnforeseenError(Exception):
    """A budget is new or gone, a period begins or has no room, or a request_id is taken."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reserving:
    """What tasks are to reserve."""

    held: Mapping[UUID, Held]
    """By task, of those that a budget counts."""
    changes: Mapping[PeriodKey, Amounts]
    covering: Mapping[Payer, str | None]
    """As the inserting statement tells it: the ids of the budgets, in their order."""

    def columns_of(self, task_id: UUID) -> tuple[int | None, int | None, str | None]:
        """`reserved_nano`, `reserved_tokens` and `charged_to`."""
        if task_id not in self.held:
            return None, None, None
        amounts, where = self.held[task_id]
        return amounts.reserved_nano, amounts.reserved_tokens, reservations.text_of(where)

    def is_as_told(self, new: Sequence[NewTask], told: Mapping[UUID, str | None]) -> bool:
        """Whether all of `new` were inserted, each under the budgets that were foreseen."""
        return len(told) == len(new) and all(told[task.id] == self.covering[payer_of(task)] for task in new)


class Foresight:
    """One process's. Of a payer it has not met it foresees no budget."""

    def __init__(self) -> None:
        self._known: dict[Payer, tuple[Budget, ...] | None] = {}
        """None: nothing is foreseen, its budgets are to be read each time."""

    def of(self, new: Sequence[NewTask], *, prices: PriceTable) -> Reserving | None:
        """What `new` are to reserve; None where their budgets must be read, or there is nothing to foresee."""
        known: dict[Payer, tuple[Budget, ...]] = {}
        for payer in set(map(payer_of, new)):
            budgets = self._known.get(payer, ())
            if budgets is None:
                return None
            known[payer] = budgets
        if not any(known.values()):
            return None
        every = {budget.id: budget for budgets in known.values() for budget in budgets}
        try:
            held = reservations.wanted(new, list(every.values()), prices)
        except BudgetExceededError:
            return None
        covering = {payer: ",".join(str(budget.id) for budget in budgets) or None for payer, budgets in known.items()}
        return Reserving(held=held, changes=reservations.sums(held.values()), covering=covering)

    def learn(self, new: Iterable[NewTask], budgets: Sequence[Budget], *, fitted: bool) -> None:
        """What was read for `new`. Where something did not fit it will be read again, until all does: an inserting
        statement that is taken back leaves dead rows. So is a limit of tasks in flight: what is left of it is told."""
        for project_id, key_id in set(map(payer_of, new)):
            theirs = [b for b in budgets if b.project_id == project_id and b.covers(key_id)]
            foreseen = fitted and all(budget.limit_tasks is None for budget in theirs)
            in_order = tuple(sorted(theirs, key=lambda budget: budget.id))
            self._known[project_id, key_id] = in_order if foreseen else None


def payer_of(task: NewTask) -> Payer:
    return task.project_id, task.key_id
