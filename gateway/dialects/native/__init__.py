"""The native API: tasks, usage, budgets, models, prices, keys, projects, webhooks. Bodies as README and /docs show
them."""

from __future__ import annotations

from gateway.dialects.native import accounts, budgets, deliveries, events, keys, models, parse, tasks, webhooks
from gateway.dialects.native.errors import answer

ROUTERS = tuple(part.router for part in (tasks, events, accounts, budgets, models, keys, deliveries, webhooks))

BODIES = (
    parse.TaskBody,
    keys.KeyBody,
    keys.LimitsBody,
    keys.ProjectBody,
    budgets.BudgetBody,
    webhooks.WebhookBody,
)

__all__ = ["BODIES", "ROUTERS", "answer"]
