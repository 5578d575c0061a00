"""Roll-ups by day, filled from the hourly one.

Revision: 0003, after 0002.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

SHARDED = sa.text("shard > 0")
COUNTS = (
    "tasks_succeeded", "tasks_failed",
    "attempts", "attempts_failed", "attempts_uncertain", "attempts_unpriced", "attempts_estimated",
    "prompt_tokens", "cached_tokens", "completion_tokens",
    "cost_nano", "possible_cost_nano",
)  # fmt: skip
OF_BOTH = ("project_id", "model", "upstream")
OF_ONE_KEY = ("project_id", "key_id", "model", "upstream", "label")


def upgrade() -> None:
    # First of all: on PostgreSQL its lock keeps everybody from booking until the sums below are committed.
    op.create_index("ix_usage_hourly_sharded", "usage_hourly", ["hour"], postgresql_where=SHARDED, sqlite_where=SHARDED)
    _create("usage_daily", OF_ONE_KEY, comment="usage_hourly by day")
    _create(
        "usage_daily_totals",
        OF_BOTH,
        comment="usage_daily over all keys and labels: what most questions ask for, in a fraction of the rows",
    )
    day = "date(hour)" if op.get_bind().dialect.name == "sqlite" else "CAST(timezone('UTC', hour) AS date)"
    _fill("usage_daily", OF_ONE_KEY, day=day, source="usage_hourly")
    _fill("usage_daily_totals", OF_BOTH, day="day", source="usage_daily")


def downgrade() -> None:
    op.drop_table("usage_daily_totals")
    op.drop_table("usage_daily")
    op.drop_index("ix_usage_hourly_sharded", table_name="usage_hourly", postgresql_where=SHARDED, sqlite_where=SHARDED)


def _create(table: str, dimensions: tuple[str, ...], *, comment: str) -> None:
    op.create_table(
        table,
        sa.Column("day", sa.Date(), nullable=False, comment="in UTC"),
        *(_dimension(name) for name in dimensions),
        sa.Column("shard", sa.SmallInteger(), nullable=False, comment="0..15: settling workers do not queue up"),
        *(sa.Column(name, sa.BigInteger(), server_default=sa.text("0"), nullable=False) for name in COUNTS),
        sa.ForeignKeyConstraint(["project_id"], ["projects.id"], name=op.f(f"fk_{table}_project_id")),
        sa.PrimaryKeyConstraint("day", *dimensions, "shard", name=op.f(f"pk_{table}")),
        comment=comment,
    )
    op.create_index(f"ix_{table}_project_id_day", table, ["project_id", "day"])
    op.create_index(f"ix_{table}_sharded", table, ["day"], postgresql_where=SHARDED, sqlite_where=SHARDED)


def _dimension(name: str) -> sa.Column[Any]:
    kinds: dict[str, Any] = {
        "project_id": sa.Uuid(),
        "key_id": sa.String(64),
        "model": sa.String(128),
        "upstream": sa.String(128),
        "label": sa.String(64),
    }
    comments = {"upstream": "'' for tasks that ended without an attempt", "label": "'' for none"}
    return sa.Column(name, kinds[name], nullable=False, comment=comments.get(name))


def _fill(table: str, dimensions: tuple[str, ...], *, day: str, source: str) -> None:
    """All of it in shard 0, where the sums of the past belong."""
    names, sums = ", ".join(dimensions), ", ".join(f"sum({name})" for name in COUNTS)
    op.execute(
        f"INSERT INTO {table} (day, {names}, shard, {', '.join(COUNTS)})"  # noqa: S608 - names of this file only
        f" SELECT {day}, {names}, 0, {sums} FROM {source} GROUP BY {day}, {names}"
    )
