"""What is kept for how long, and what is erased: of projects, tasks and batches.

Revision: 0010, after 0009.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

TEXTS = ("prompts", "results")
RULE = "NOT erased OR (body IS NULL AND error_message IS NULL)"
INDEXES = (
    ("ix_batches_erasing", "batches", ["id"], "erase_asked_at IS NOT NULL AND erased_at IS NULL"),
    ("ix_tasks_batch_id_superseded", "tasks", ["batch_id", "line"], "batch_id IS NOT NULL AND superseded"),
)


def upgrade() -> None:
    for texts in TEXTS:
        kept = sa.Column(f"keep_{texts}_s", sa.BigInteger(), comment="after a task's end; null: for ever")
        op.add_column("projects", kept)
    for texts in TEXTS:
        cursor = sa.Column(f"{texts}_erased_to", sa.Uuid(), comment="a task: of it and of all before it")
        op.add_column("projects", cursor)
    op.add_column("batches", _instant("erase_asked_at", "deleted: from then on it is shown to nobody"))
    zero = sa.text("0")
    op.add_column("batches", sa.Column("erased_lines", sa.BigInteger(), server_default=zero, nullable=False))
    op.add_column("batches", _instant("erased_at", "nothing is left of its lines' texts"))
    # In the column's own words: SQLite adds no CHECK to a table that there is.
    false = "0" if op.get_bind().dialect.name == "sqlite" else "false"
    op.execute(
        f"ALTER TABLE task_results ADD COLUMN erased BOOLEAN DEFAULT {false} NOT NULL"
        f" CONSTRAINT ck_task_results_erased_holds_no_text CHECK ({RULE})"
    )
    if op.get_bind().dialect.name == "postgresql":
        op.execute("COMMENT ON COLUMN task_results.erased IS 'its texts are gone'")
        op.execute("COMMENT ON COLUMN task_results.error_code IS '''erased'' where an answer was'")
    for name, table, columns, where in INDEXES:
        condition = sa.text(where)
        op.create_index(name, table, columns, postgresql_where=condition, sqlite_where=condition)


def downgrade() -> None:
    for name, table, _, where in INDEXES:
        condition = sa.text(where)
        op.drop_index(name, table_name=table, postgresql_where=condition, sqlite_where=condition)
    if op.get_bind().dialect.name == "postgresql":
        op.drop_constraint(op.f("ck_task_results_erased_holds_no_text"), "task_results")
        op.execute("COMMENT ON COLUMN task_results.error_code IS NULL")
        op.drop_column("task_results", "erased")
    else:
        op.execute("ALTER TABLE task_results DROP COLUMN erased")
    for column in ("erased_at", "erased_lines", "erase_asked_at"):
        op.drop_column("batches", column)
    for texts in TEXTS:
        op.drop_column("projects", f"{texts}_erased_to")
        op.drop_column("projects", f"keep_{texts}_s")


def _instant(name: str, comment: str) -> sa.Column[object]:
    return sa.Column(name, sa.DateTime(timezone=True), comment=comment)
