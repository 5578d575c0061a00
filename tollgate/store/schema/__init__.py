"""The tables. Their CHECKs, keys and partial indexes state what the code may assume.

`tasks` is narrow and hot: every transition is one guarded UPDATE there. Bodies stand apart, in
`task_requests` and `task_results`, written once, as the text that came. Money is integer nano-units
(1e-9) of the installation's one currency. Instants are UTC.

A file holds the tables of one noun; all are told here.
"""

from __future__ import annotations

from tollgate.store.schema.attempt import attempts
from tollgate.store.schema.batch import batches, begins_lines, invalid_lines, stays_local
from tollgate.store.schema.budget import BUDGET_PERIODS, budget_periods, budgets
from tollgate.store.schema.columns import Instant, metadata, required
from tollgate.store.schema.file import files
from tollgate.store.schema.price import prices
from tollgate.store.schema.project import api_keys, labels, masters, projects
from tollgate.store.schema.task import (
    LANES,
    LINE_BEGUN,
    LINE_ENDED,
    LINE_FAILED,
    LINE_STANDS,
    LINE_SUPERSEDED,
    QUEUED,
    QUEUED_BY_ID,
    QUEUED_MAY_BE_OVER,
    RUNNING,
    RUNNING_BY_ID,
    task_requests,
    task_results,
    tasks,
)
from tollgate.store.schema.upstream_batch import upstream_batches
from tollgate.store.schema.usage import (
    BATCH_COUNTS,
    DAILY_KEY,
    TOTALS_KEY,
    USAGE_COUNTS,
    USAGE_KEY,
    batch_sums,
    usage_daily,
    usage_daily_totals,
    usage_hourly,
)
from tollgate.store.schema.webhook import PENDING, callback_secrets, webhook_deliveries, webhooks
from tollgate.store.schema.worker import pauses, workers

__all__ = [
    "BATCH_COUNTS",
    "BUDGET_PERIODS",
    "DAILY_KEY",
    "LANES",
    "LINE_BEGUN",
    "LINE_ENDED",
    "LINE_FAILED",
    "LINE_STANDS",
    "LINE_SUPERSEDED",
    "PENDING",
    "QUEUED",
    "QUEUED_BY_ID",
    "QUEUED_MAY_BE_OVER",
    "RUNNING",
    "RUNNING_BY_ID",
    "TOTALS_KEY",
    "USAGE_COUNTS",
    "USAGE_KEY",
    "Instant",
    "api_keys",
    "attempts",
    "batch_sums",
    "batches",
    "begins_lines",
    "budget_periods",
    "budgets",
    "callback_secrets",
    "files",
    "invalid_lines",
    "labels",
    "masters",
    "metadata",
    "pauses",
    "prices",
    "projects",
    "required",
    "stays_local",
    "task_requests",
    "task_results",
    "tasks",
    "upstream_batches",
    "usage_daily",
    "usage_daily_totals",
    "usage_hourly",
    "webhook_deliveries",
    "webhooks",
    "workers",
]
