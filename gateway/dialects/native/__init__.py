"""The native API: tasks, files, usage, budgets, models, prices, keys, projects, webhooks. Bodies as README and /docs
show them."""

from __future__ import annotations

from gateway.batch_body import BatchBody, ResumeBody
from gateway.dialects.native import (
    accounts,
    batch_estimates,
    batch_results,
    batches,
    budgets,
    deliveries,
    events,
    files,
    keys,
    models,
    projects,
    tasks,
    webhooks,
)
from gateway.dialects.native.errors import answer
from gateway.task_body import TaskBody

PARTS = (
    tasks, events, files, batches, batch_estimates, batch_results, accounts, budgets, models, keys, projects,
    deliveries, webhooks,
)  # fmt: skip
ROUTERS = tuple(part.router for part in PARTS)

BODIES = (
    TaskBody,
    BatchBody,
    ResumeBody,
    batch_estimates.EstimateBody,
    keys.KeyBody,
    keys.LimitsBody,
    projects.ProjectBody,
    projects.RetentionBody,
    budgets.BudgetBody,
    webhooks.WebhookBody,
)

__all__ = ["BODIES", "ROUTERS", "answer"]
