"""Whether the books agree: tasks, attempts, roll-ups, budgets and batches, recomputed from their rows and compared.

The database does the sums and only differences come out, so this process needs little memory. Every check scans whole
tables: it is for `tollgate reconcile`, not for a request. `bills` compares the attempts with a provider's own bill.
"""

from __future__ import annotations

from tollgate.store.reconcile import batches, budget_sums, days, lifecycle, roll_up
from tollgate.store.reconcile.checks import Check

CHECKS: tuple[Check, ...] = (*lifecycle.CHECKS, roll_up.CHECK, *days.CHECKS, budget_sums.CHECK, *batches.CHECKS)
"""In the order in which they are told."""
