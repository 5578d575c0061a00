"""Limits, and what stands in each of their periods."""

from __future__ import annotations

import sqlalchemy as sa

from tollgate.store.schema.columns import OF_BATCH, Instant, count, metadata, one_of, partial, required

_OF_NO_BATCH = sa.text("batch_id IS NULL")

BUDGET_PERIODS = ("day", "month", "total", "in_flight")

budgets = sa.Table(
    "budgets",
    metadata,
    sa.Column("id", sa.Uuid, primary_key=True),
    required("project_id", sa.Uuid, sa.ForeignKey("projects.id")),
    sa.Column("key_id", sa.String(64), sa.ForeignKey("api_keys.id"), comment="null: the whole project's"),
    sa.Column("batch_id", sa.Uuid, sa.ForeignKey("batches.id"), comment="that batch's alone: its max_cost"),
    required("period", sa.String(16)),
    sa.Column("limit_nano", sa.BigInteger),
    sa.Column("limit_tokens", sa.BigInteger),
    sa.Column("limit_tasks", sa.BigInteger, comment="open at once; only of period in_flight"),
    required("created_at", Instant),
    one_of("period", BUDGET_PERIODS),
    sa.CheckConstraint(
        "(limit_nano IS NOT NULL OR limit_tokens IS NOT NULL) = (limit_tasks IS NULL)", name="limits_something"
    ),
    sa.CheckConstraint("(limit_tasks IS NOT NULL) = (period = 'in_flight')", name="tasks_are_in_flight"),
    sa.CheckConstraint("batch_id IS NULL OR (key_id IS NULL AND period = 'total')", name="of_batch_is_total"),
    partial("ix_budgets_project_id", "project_id", where=_OF_NO_BATCH),
    partial("uq_budgets_batch_id", "batch_id", unique=True, where=OF_BATCH),
    partial(
        "uq_budgets_project_id_period", "project_id", "period", unique=True, where="key_id IS NULL AND batch_id IS NULL"
    ),
    partial("uq_budgets_key_id_period", "key_id", "period", unique=True, where="key_id IS NOT NULL"),
)

budget_periods = sa.Table(
    "budget_periods",
    metadata,
    sa.Column("budget_id", sa.Uuid, sa.ForeignKey("budgets.id"), primary_key=True),
    sa.Column("starts_on", sa.Date, primary_key=True),
    count("reserved_nano"),
    count("reserved_tokens"),
    count("reserved_tasks"),
    count("spent_nano"),
    count("spent_tokens"),
    count("uncertain_nano"),
    count("uncertain_tokens"),
    sa.CheckConstraint(
        "reserved_nano >= 0 AND reserved_tokens >= 0 AND reserved_tasks >= 0", name="reserves_nothing_negative"
    ),
)
