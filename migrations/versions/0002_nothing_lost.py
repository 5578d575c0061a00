"""Feeds that take turns, calls that are polled, and budgets that are charged.

Revision: 0002, after 0001.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

DUE = sa.text("state = 'queued'")
PROJECTS, KEYS = sa.text("key_id IS NULL"), sa.text("key_id IS NOT NULL")


def upgrade() -> None:
    op.add_column(
        "attempts",
        sa.Column("credential", sa.String(128), comment="the variable of the key that upstream_id belongs to"),
    )
    op.add_column(
        "attempts",
        sa.Column(
            "unanswered",
            sa.Integer(),
            server_default=sa.text("0"),
            nullable=False,
            comment="sends whose answer never came: the upstream may know the request_id",
        ),
    )
    op.add_column("attempts", sa.Column("possible_tokens", sa.BigInteger(), comment="the same in tokens"))
    if op.get_bind().dialect.name == "postgresql":
        op.alter_column("attempts", "possible_cost_nano", comment="of an uncertain attempt, and of one that is polled")
    for name in ("uncertain_nano", "uncertain_tokens"):
        op.add_column("budget_periods", sa.Column(name, sa.BigInteger(), server_default=sa.text("0"), nullable=False))
    op.create_index(
        "uq_budgets_project_id_period", "budgets", ["project_id", "period"],
        unique=True, postgresql_where=PROJECTS, sqlite_where=PROJECTS,
    )  # fmt: skip
    op.create_index(
        "uq_budgets_key_id_period", "budgets", ["key_id", "period"],
        unique=True, postgresql_where=KEYS, sqlite_where=KEYS,
    )  # fmt: skip
    _upgrade_tasks()


def _upgrade_tasks() -> None:
    op.add_column(
        "tasks",
        sa.Column("charged_to", sa.Text(), comment="periods of budgets, comma-separated id@first-day; null: none"),
    )
    op.add_column(
        "tasks",
        sa.Column(
            "assumed_max_tokens",
            sa.Integer(),
            server_default=sa.text("4096"),
            nullable=False,
            comment="of a completion, where max_tokens is null",
        ),
    )
    op.drop_column("tasks", "reserved_period")
    # SQLite takes a CHECK with a new column only in the column's own words.
    op.execute(
        "ALTER TABLE tasks ADD COLUMN mode VARCHAR(8) DEFAULT 'direct' NOT NULL"
        " CONSTRAINT ck_tasks_mode CHECK (mode IN ('direct', 'async'))"
    )
    op.add_column(
        "tasks",
        sa.Column(
            "feed",
            sa.Uuid(),
            server_default=sa.text("'00000000-0000-0000-0000-000000000000'"),
            nullable=False,
            comment="its batch, else its project: feeds take turns",
        ),
    )
    if op.get_bind().dialect.name == "postgresql":
        op.execute("COMMENT ON COLUMN tasks.mode IS 'how it is asked: one call, or submit and poll'")
    op.execute("UPDATE tasks SET feed = coalesce(batch_id, project_id)")
    op.drop_index("ix_tasks_due", table_name="tasks", postgresql_where=DUE, sqlite_where=DUE)
    op.create_index(
        "ix_tasks_due", "tasks", ["route", "lane", "feed", "not_before"], postgresql_where=DUE, sqlite_where=DUE
    )


def downgrade() -> None:
    op.add_column("tasks", sa.Column("reserved_period", sa.Date(), comment="the day whose budget periods hold it"))
    op.drop_index("ix_tasks_due", table_name="tasks", postgresql_where=DUE, sqlite_where=DUE)
    op.create_index("ix_tasks_due", "tasks", ["route", "lane", "not_before"], postgresql_where=DUE, sqlite_where=DUE)
    op.drop_index("uq_budgets_key_id_period", table_name="budgets", postgresql_where=KEYS, sqlite_where=KEYS)
    op.drop_index(
        "uq_budgets_project_id_period", table_name="budgets", postgresql_where=PROJECTS, sqlite_where=PROJECTS
    )
    for table, column in (
        ("tasks", "feed"),
        ("tasks", "mode"),
        ("tasks", "charged_to"),
        ("tasks", "assumed_max_tokens"),
        ("budget_periods", "uncertain_tokens"),
        ("budget_periods", "uncertain_nano"),
        ("attempts", "possible_tokens"),
        ("attempts", "unanswered"),
        ("attempts", "credential"),
    ):
        op.drop_column(table, column)
