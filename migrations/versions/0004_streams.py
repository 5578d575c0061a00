"""Tasks that are asked for as a stream.

Revision: 0004, after 0003.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column(
        "tasks",
        sa.Column(
            "streamed",
            sa.Boolean(create_constraint=False),
            nullable=False,
            server_default=sa.false(),
            comment="its upstream is asked for a stream, told on as it comes",
        ),
    )


def downgrade() -> None:
    op.drop_column("tasks", "streamed")
