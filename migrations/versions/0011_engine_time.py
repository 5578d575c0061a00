"""A local engine's time, beside tokens and cost: of attempts, and in all sums of them.

Revision: 0011, after 0010.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

SUMS = ("usage_hourly", "usage_daily", "usage_daily_totals", "batch_sums")


def upgrade() -> None:
    share = "share of a local engine's time; null: not known, or none"
    op.add_column("attempts", sa.Column("engine_us", sa.BigInteger(), comment=share))
    for table in SUMS:
        op.add_column(table, sa.Column("engine_us", sa.BigInteger(), server_default=sa.text("0"), nullable=False))


def downgrade() -> None:
    for table in SUMS:
        op.drop_column(table, "engine_us")
    op.drop_column("attempts", "engine_us")
