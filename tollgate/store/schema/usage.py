"""Sums of attempts and of ended tasks: by hour, by day, and by batch."""

from __future__ import annotations

import sqlalchemy as sa

from tollgate.store.schema.columns import Instant, count, metadata, sharded

USAGE_KEY = ("hour", "project_id", "key_id", "model", "upstream", "label", "shard")
DAILY_KEY = ("day", *USAGE_KEY[1:])
TOTALS_KEY = ("day", "project_id", "model", "upstream", "shard")
"""Of the roll-ups, by which their rows are locked in order."""
USAGE_COUNTS = (
    "tasks_succeeded", "tasks_failed",
    "attempts", "attempts_failed", "attempts_uncertain", "attempts_unpriced", "attempts_estimated",
    "prompt_tokens", "cached_tokens", "completion_tokens", "engine_us",
    "cost_nano", "possible_cost_nano",
)  # fmt: skip

usage_hourly = sa.Table(
    "usage_hourly",
    metadata,
    sa.Column("hour", Instant, primary_key=True),
    sa.Column("project_id", sa.Uuid, sa.ForeignKey("projects.id"), primary_key=True),
    sa.Column("key_id", sa.String(64), primary_key=True),
    sa.Column("model", sa.String(128), primary_key=True),
    sa.Column("upstream", sa.String(128), primary_key=True, comment="'' for tasks that ended without an attempt"),
    sa.Column("label", sa.String(64), primary_key=True, comment="'' for none"),
    sa.Column("shard", sa.SmallInteger, primary_key=True, comment="0..15: settling workers do not queue up"),
    *(count(name) for name in USAGE_COUNTS),
    sa.Index("ix_usage_hourly_project_id_hour", "project_id", "hour"),
    sharded("ix_usage_hourly_sharded", "hour"),
    comment="attempts by the hour of their start, ends of tasks by the hour of their end",
)

usage_daily = sa.Table(
    "usage_daily",
    metadata,
    sa.Column("day", sa.Date, primary_key=True, comment="in UTC"),
    sa.Column("project_id", sa.Uuid, sa.ForeignKey("projects.id"), primary_key=True),
    sa.Column("key_id", sa.String(64), primary_key=True),
    sa.Column("model", sa.String(128), primary_key=True),
    sa.Column("upstream", sa.String(128), primary_key=True, comment="'' for tasks that ended without an attempt"),
    sa.Column("label", sa.String(64), primary_key=True, comment="'' for none"),
    sa.Column("shard", sa.SmallInteger, primary_key=True, comment="0..15: settling workers do not queue up"),
    *(count(name) for name in USAGE_COUNTS),
    sa.Index("ix_usage_daily_project_id_day", "project_id", "day"),
    sharded("ix_usage_daily_sharded", "day"),
    comment="usage_hourly by day",
)

usage_daily_totals = sa.Table(
    "usage_daily_totals",
    metadata,
    sa.Column("day", sa.Date, primary_key=True, comment="in UTC"),
    sa.Column("project_id", sa.Uuid, sa.ForeignKey("projects.id"), primary_key=True),
    sa.Column("model", sa.String(128), primary_key=True),
    sa.Column("upstream", sa.String(128), primary_key=True, comment="'' for tasks that ended without an attempt"),
    sa.Column("shard", sa.SmallInteger, primary_key=True, comment="0..15: settling workers do not queue up"),
    *(count(name) for name in USAGE_COUNTS),
    sa.Index("ix_usage_daily_totals_project_id_day", "project_id", "day"),
    sharded("ix_usage_daily_totals_sharded", "day"),
    comment="usage_daily over all keys and labels: what most questions ask for, in a fraction of the rows",
)

BATCH_COUNTS = (*USAGE_COUNTS, "tasks_cancelled", "tasks_expired")

batch_sums = sa.Table(
    "batch_sums",
    metadata,
    sa.Column("batch_id", sa.Uuid, sa.ForeignKey("batches.id"), primary_key=True),
    sa.Column("shard", sa.SmallInteger, primary_key=True, comment="0..15: settling workers do not queue up"),
    *(count(name) for name in BATCH_COUNTS),
    comment="what its lines came to; tasks_failed has the cancelled and the expired too",
)
