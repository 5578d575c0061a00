"""Tasks that leave a route that fails them.

Revision: 0005, after 0004.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

COLUMNS = {
    "route_tries": "failed tries on this route that count towards leaving it",
    "refused_attempts": "attempts that bought nothing, closed as the task went to another route",
}


def upgrade() -> None:
    for name, comment in COLUMNS.items():
        op.add_column(
            "tasks", sa.Column(name, sa.Integer(), nullable=False, server_default=sa.text("0"), comment=comment)
        )


def downgrade() -> None:
    for name in reversed(COLUMNS):
        op.drop_column("tasks", name)
