"""What is bought by the upstreams' own batches.

Revision: 0009, after 0008.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

STATES = ("gathering", "grouped", "uploaded", "creating", "running", "harvesting", "ended")
INDEXES = (
    ("ix_upstream_batches_batch_id", ["batch_id"], None),
    ("ix_upstream_batches_next_at", ["next_at"], "ended_at IS NULL"),
    ("uq_upstream_batches_gathering", ["batch_id", "upstream", "upstream_model"], "state = 'gathering'"),
)
STANDS_IN_ONE = "upstream_batch_id IS NOT NULL"


def upgrade() -> None:
    op.create_table(
        "upstream_batches",
        sa.Column("id", sa.Uuid(), nullable=False, comment="also the mark by which it is found in the upstream's list"),
        sa.Column("batch_id", sa.Uuid(), nullable=False),
        sa.Column("upstream", sa.String(128), nullable=False),
        sa.Column("upstream_model", sa.String(128), nullable=False),
        sa.Column(
            "credential",
            sa.String(128),
            nullable=False,
            comment="the variable of the key whose account it belongs to",
        ),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("worker_id", sa.Uuid(), comment="who looks after it; a dead one is followed by another"),
        _count("lines"),
        _count("bytes"),
        sa.Column("file_id", sa.Text(), comment="the upstream's, as the ids below"),
        sa.Column("upstream_id", sa.Text()),
        sa.Column("output_file_id", sa.Text()),
        sa.Column("error_file_id", sa.Text()),
        _count("succeeded"),
        sa.Column(
            "failures",
            sa.Integer(),
            server_default=sa.text("0"),
            nullable=False,
            comment="of calls, since one went well",
        ),
        sa.Column("error", sa.Text(), comment="the last one's, or why it ended without answers"),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("asked_at", sa.DateTime(timezone=True), comment="it may be there since then"),
        sa.Column("running_at", sa.DateTime(timezone=True), comment="its id was known"),
        sa.Column("ended_at", sa.DateTime(timezone=True)),
        sa.Column("next_at", sa.DateTime(timezone=True), nullable=False, comment="it is looked at again"),
        sa.CheckConstraint(
            "state IN ({})".format(", ".join(f"'{state}'" for state in STATES)), name=op.f("ck_upstream_batches_state")
        ),
        sa.CheckConstraint(
            "(state = 'ended') = (ended_at IS NOT NULL)", name=op.f("ck_upstream_batches_ended_has_time")
        ),
        sa.ForeignKeyConstraint(["batch_id"], ["batches.id"], name=op.f("fk_upstream_batches_batch_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_upstream_batches")),
        comment="what is bought by the upstream's own batches; succeeded: as it tells, and counted at its end",
    )
    for name, columns, where in INDEXES:
        _index(name, "upstream_batches", columns, where, unique=name.startswith("uq_"))
    op.add_column(
        "tasks",
        sa.Column("upstream_batch_id", sa.Uuid(), comment="it is, or was to its end, a line of that upstream batch"),
    )
    _index("ix_tasks_upstream_batch_id", "tasks", ["upstream_batch_id", "line"], STANDS_IN_ONE)
    op.add_column(
        "batches",
        sa.Column(
            "grouped_lines",
            sa.BigInteger(),
            server_default=sa.text("0"),
            nullable=False,
            comment="up to there they stand in upstream batches",
        ),
    )


def downgrade() -> None:
    op.drop_column("batches", "grouped_lines")
    condition = sa.text(STANDS_IN_ONE)
    op.drop_index("ix_tasks_upstream_batch_id", table_name="tasks", postgresql_where=condition, sqlite_where=condition)
    op.drop_column("tasks", "upstream_batch_id")
    op.drop_table("upstream_batches")


def _index(name: str, table: str, columns: list[str], where: str | None, *, unique: bool = False) -> None:
    condition = None if where is None else sa.text(where)
    op.create_index(name, table, columns, unique=unique, postgresql_where=condition, sqlite_where=condition)


def _count(name: str) -> sa.Column[int]:
    return sa.Column(name, sa.BigInteger(), server_default=sa.text("0"), nullable=False)
