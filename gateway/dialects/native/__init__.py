"""The native API: tasks, usage, budgets, models, prices, keys and projects. Bodies as README and /docs show them."""

from __future__ import annotations

from gateway.dialects.native import accounts, budgets, events, keys, models, parse, tasks
from gateway.dialects.native.errors import answer

ROUTERS = tuple(part.router for part in (tasks, events, accounts, budgets, models, keys))

BODIES = (parse.TaskBody, keys.KeyBody, keys.LimitsBody, keys.ProjectBody, budgets.BudgetBody)

__all__ = ["BODIES", "ROUTERS", "answer"]
