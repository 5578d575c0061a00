"""Batches and their files: lines, sums, what they may cost, and pages of their results by index.

Revision: 0008, after 0007.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

COUNTS = (
    "tasks_succeeded", "tasks_failed",
    "attempts", "attempts_failed", "attempts_uncertain", "attempts_unpriced", "attempts_estimated",
    "prompt_tokens", "cached_tokens", "completion_tokens",
    "cost_nano", "possible_cost_nano",
    "tasks_cancelled", "tasks_expired",
)  # fmt: skip
STANDS = "batch_id IS NOT NULL AND NOT superseded"
FAILED = f"{STANDS} AND state IN ('failed', 'cancelled', 'expired')"
ENDED = f"{STANDS} AND ended_at IS NOT NULL"
LINE_INDEXES = (
    ("uq_tasks_batch_id_line", ("line",), STANDS),
    ("uq_tasks_batch_id_custom_id", ("custom_id",), STANDS),
    ("ix_tasks_batch_id_failed", ("line",), FAILED),
    ("ix_tasks_batch_id_ended_at", ("ended_at", "line"), ENDED),
)
QUEUED = "state = 'queued'"
MAY_BE_OVER = f"{QUEUED} AND deadline < 'infinity'"
BEGUN = "state = 'queued' AND batch_id IS NOT NULL AND (started_at IS NOT NULL OR attempt > 1 + refused_attempts)"
OF_PROJECTS = "key_id IS NULL"
STATES_BEFORE = (
    "validating", "in_progress", "paused", "finalizing", "completed", "failed", "expired", "cancelling", "cancelled",
)  # fmt: skip


def upgrade() -> None:
    # Until now nothing wrote to these two: they were only kept free.
    _drop_batches_and_files()
    _create_batches()
    _create_files()
    _create_parts()
    _extend_budgets()
    _extend_tasks()
    _refer_to_batches()


def downgrade() -> None:
    for name, _, where in LINE_INDEXES:
        _drop_index(name, "tasks", where)
    _drop_index("ix_tasks_begun", "tasks", BEGUN)
    _drop_index("ix_tasks_deadline", "tasks", MAY_BE_OVER)
    _index("ix_tasks_deadline", "tasks", ["deadline"], QUEUED)
    _drop_index("uq_budgets_batch_id", "budgets", "batch_id IS NOT NULL")
    op.execute("DELETE FROM budget_periods WHERE budget_id IN (SELECT id FROM budgets WHERE batch_id IS NOT NULL)")
    op.execute("DELETE FROM budgets WHERE batch_id IS NOT NULL")
    op.execute("UPDATE tasks SET batch_id = NULL, line = NULL")
    _drop_index("uq_budgets_project_id_period", "budgets", f"{OF_PROJECTS} AND batch_id IS NULL")
    _drop_index("ix_budgets_project_id", "budgets", "batch_id IS NULL")
    if op.get_bind().dialect.name == "sqlite":
        # A column that a CHECK names cannot be dropped there: the CHECKs are their columns' own.
        _drop_columns_of_sqlite()
    else:
        op.drop_column("budgets", "batch_id")
        op.drop_constraint(op.f("ck_tasks_batch_has_lines"), "tasks")
        op.drop_column("tasks", "line")
    op.drop_column("tasks", "superseded")
    op.create_index("ix_budgets_project_id", "budgets", ["project_id"])
    _index("uq_budgets_project_id_period", "budgets", ["project_id", "period"], OF_PROJECTS, unique=True)
    op.drop_table("batch_sums")
    op.drop_table("invalid_lines")
    _drop_batches_and_files()
    _create_batches_before()
    _index("ix_tasks_batch_id_id", "tasks", ["batch_id", "id"], "batch_id IS NOT NULL")
    _refer_to_batches()


def _drop_columns_of_sqlite() -> None:
    op.execute("ALTER TABLE budgets DROP COLUMN batch_id")
    op.execute("ALTER TABLE tasks DROP COLUMN line")


def _drop_batches_and_files() -> None:
    if op.get_bind().dialect.name == "postgresql":
        op.drop_constraint(op.f("fk_tasks_batch_id"), "tasks", type_="foreignkey")
    op.drop_table("batches")
    op.drop_table("files")


def _refer_to_batches() -> None:
    """SQLite finds the table by its name."""
    if op.get_bind().dialect.name == "postgresql":
        op.create_foreign_key(op.f("fk_tasks_batch_id"), "tasks", "batches", ["batch_id"], ["id"])


def _create_batches() -> None:
    op.create_table(
        "batches",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("project_id", sa.Uuid(), nullable=False),
        sa.Column("key_id", sa.String(64), nullable=False),
        sa.Column("request_id", sa.Text(), comment="the client's; idempotency key within the project"),
        sa.Column("digest", sa.String(64), nullable=False, comment="SHA-256 of what was asked"),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("endpoint", sa.Text(), nullable=False, comment="as the client wrote it: /v1/chat/completions"),
        sa.Column("name", sa.Text(), comment="of the input, for people"),
        sa.Column("input_file_id", sa.Uuid(), comment="the file itself may be gone"),
        sa.Column("input_bytes", sa.BigInteger(), nullable=False),
        _flag("delete_input", "once it is taken in"),
        sa.Column("output_file_id", sa.Uuid()),
        sa.Column("error_file_id", sa.Uuid()),
        sa.Column("via", sa.String(16), server_default=sa.text("'direct'"), nullable=False),
        sa.Column("priority", sa.String(16), nullable=False),
        _flag("strict", "one invalid line fails it, before anything runs"),
        sa.Column("defaults", sa.Text(), comment="JSON: model, label and parameters of lines that do not say them"),
        sa.Column("max_cost_nano", sa.BigInteger(), comment="also the limit of its own budget"),
        sa.Column("metadata", sa.Text()),
        sa.Column("callback_url", sa.Text(), comment="told of its end"),
        sa.Column("window_s", sa.Integer(), nullable=False, comment="from created_at to expires_at"),
        *(_count(name) for name in ("total", "accepted", "invalid", "taken_bytes", "taken_lines")),
        _instant("taken_at", "of the last step of its intake: another gateway goes on with a stale one"),
        _instant("paused_at", "no line of it is told or claimed"),
        sa.Column("paused_code", sa.String(32)),
        sa.Column("paused_why", sa.Text()),
        sa.Column("error_code", sa.String(64)),
        sa.Column("error_message", sa.Text(), comment="of one that failed as a whole"),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        _instant("in_progress_at", "all of its lines were taken in"),
        _instant("cancelling_at"),
        _instant("retry_asked_at", "lines that failed before it are to be tried again"),
        _instant("ended_at"),
        _check(
            "batches",
            "state",
            "state IN ('validating', 'in_progress', 'cancelling', 'completed', 'failed', 'expired', 'cancelled')",
        ),
        _check("batches", "via", "via IN ('direct', 'upstream_batch', 'local')"),
        _check("batches", "priority", "priority IN ('interactive', 'bulk')"),
        _check(
            "batches", "ended_has_time", "(state IN ('validating', 'in_progress', 'cancelling')) = (ended_at IS NULL)"
        ),
        sa.ForeignKeyConstraint(["project_id"], ["projects.id"], name=op.f("fk_batches_project_id")),
        sa.ForeignKeyConstraint(["key_id"], ["api_keys.id"], name=op.f("fk_batches_key_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_batches")),
        comment="total: lines of the input; accepted: those that became tasks; taken: how far its intake came",
    )
    op.create_index("ix_batches_project_id_id", "batches", ["project_id", "id"])
    op.create_index("ix_batches_input_file_id", "batches", ["input_file_id"])
    _index("ix_batches_open", "batches", ["id"], "ended_at IS NULL")
    _index(
        "uq_batches_project_id_request_id", "batches", ["project_id", "request_id"], "request_id IS NOT NULL",
        unique=True,
    )  # fmt: skip


def _create_files() -> None:
    op.create_table(
        "files",
        sa.Column("id", sa.Uuid(), nullable=False, comment="also its name in the folder of files"),
        sa.Column("project_id", sa.Uuid(), nullable=False),
        sa.Column("key_id", sa.String(64), comment="who brought it; null: a batch made it"),
        sa.Column("filename", sa.Text(), nullable=False),
        sa.Column("purpose", sa.String(32), nullable=False),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        sa.Column("lines", sa.BigInteger(), comment="that are not blank"),
        sa.Column("sha256", sa.String(64), comment="null: a view of a batch's results, which nobody uploaded"),
        sa.Column("batch_id", sa.Uuid(), comment="of such a view"),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        _instant("expires_at", "null: never"),
        _check("files", "purpose", "purpose IN ('batch', 'batch_output')"),
        _check("files", "uploaded_or_view", "(sha256 IS NULL) = (batch_id IS NOT NULL)"),
        sa.ForeignKeyConstraint(["project_id"], ["projects.id"], name=op.f("fk_files_project_id")),
        sa.ForeignKeyConstraint(["key_id"], ["api_keys.id"], name=op.f("fk_files_key_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_files")),
    )
    op.create_index("ix_files_project_id_id", "files", ["project_id", "id"])
    _index("ix_files_batch_id", "files", ["batch_id"], "batch_id IS NOT NULL")
    _index("ix_files_expires_at", "files", ["expires_at"], "expires_at IS NOT NULL")


def _create_parts() -> None:
    op.create_table(
        "invalid_lines",
        sa.Column("batch_id", sa.Uuid(), nullable=False),
        sa.Column("line", sa.BigInteger(), nullable=False, comment="from 1, blank ones counted"),
        sa.Column("custom_id", sa.Text()),
        sa.Column("code", sa.String(64), nullable=False),
        sa.Column("message", sa.Text(), nullable=False),
        sa.Column("field", sa.Text()),
        sa.ForeignKeyConstraint(["batch_id"], ["batches.id"], name=op.f("fk_invalid_lines_batch_id")),
        sa.PrimaryKeyConstraint("batch_id", "line", name=op.f("pk_invalid_lines")),
        comment="of a batch's input: they became no task",
    )
    op.create_table(
        "batch_sums",
        sa.Column("batch_id", sa.Uuid(), nullable=False),
        sa.Column("shard", sa.SmallInteger(), nullable=False, comment="0..15: settling workers do not queue up"),
        *(_count(name) for name in COUNTS),
        sa.ForeignKeyConstraint(["batch_id"], ["batches.id"], name=op.f("fk_batch_sums_batch_id")),
        sa.PrimaryKeyConstraint("batch_id", "shard", name=op.f("pk_batch_sums")),
        comment="what its lines came to; tasks_failed has the cancelled and the expired too",
    )


def _extend_budgets() -> None:
    _drop_index("uq_budgets_project_id_period", "budgets", OF_PROJECTS)
    rule = "batch_id IS NULL OR (key_id IS NULL AND period = 'total')"
    _add_checked("budgets", "batch_id", "CHAR(32)", rule, name="of_batch_is_total", refers_to="batches")
    _comment("budgets", "batch_id", "that batch''s alone: its max_cost")
    _index(
        "uq_budgets_project_id_period", "budgets", ["project_id", "period"], f"{OF_PROJECTS} AND batch_id IS NULL",
        unique=True,
    )  # fmt: skip
    _index("uq_budgets_batch_id", "budgets", ["batch_id"], "batch_id IS NOT NULL", unique=True)
    # Of those that every submission asks for: the budgets of batches are more each day.
    op.drop_index("ix_budgets_project_id", table_name="budgets")
    _index("ix_budgets_project_id", "budgets", ["project_id"], "batch_id IS NULL")


def _extend_tasks() -> None:
    _drop_index("ix_tasks_batch_id_id", "tasks", "batch_id IS NOT NULL")
    _add_checked("tasks", "line", "BIGINT", "(batch_id IS NULL) = (line IS NULL)", name="batch_has_lines")
    _comment("tasks", "line", "of its batch''s input, from 1")
    op.add_column("tasks", _flag("superseded", "its line was tried again, as another task"))
    # With the words that only the search for what is too late says.
    _drop_index("ix_tasks_deadline", "tasks", QUEUED)
    _index("ix_tasks_deadline", "tasks", ["deadline"], MAY_BE_OVER)
    _index("ix_tasks_begun", "tasks", ["route", "lane", "feed", "not_before"], BEGUN)
    for name, columns, where in LINE_INDEXES:
        _index(name, "tasks", ["batch_id", *columns], where, unique=name.startswith("uq_"))


def _add_checked(table: str, column: str, kind: str, rule: str, *, name: str, refers_to: str | None = None) -> None:
    """SQLite takes a CHECK with a new column only in the column's own words."""
    sqlite = op.get_bind().dialect.name == "sqlite"
    kind = kind if sqlite or kind != "CHAR(32)" else "UUID"
    refers = f" CONSTRAINT fk_{table}_{column} REFERENCES {refers_to} (id)" if refers_to else ""
    op.execute(f"ALTER TABLE {table} ADD COLUMN {column} {kind}{refers} CONSTRAINT ck_{table}_{name} CHECK ({rule})")


def _create_batches_before() -> None:
    op.create_table(
        "batches",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("project_id", sa.Uuid(), nullable=False),
        sa.Column("key_id", sa.String(64), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("endpoint", sa.String(64), nullable=False),
        *(sa.Column(name, sa.Uuid()) for name in ("input_file_id", "output_file_id", "error_file_id")),
        sa.Column("via", sa.String(16), server_default=sa.text("'direct'"), nullable=False),
        sa.Column("max_cost_nano", sa.BigInteger()),
        sa.Column("metadata", sa.Text()),
        *(_count(name) for name in ("total", "completed", "failed")),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        _instant("expires_at"),
        _instant("ended_at"),
        sa.Column("callback_url", sa.Text(), comment="told of its end"),
        _check("batches", "state", "state IN ({})".format(", ".join(f"'{state}'" for state in STATES_BEFORE))),
        _check("batches", "via", "via IN ('direct', 'upstream_batch', 'local')"),
        sa.ForeignKeyConstraint(["project_id"], ["projects.id"], name=op.f("fk_batches_project_id")),
        sa.ForeignKeyConstraint(["key_id"], ["api_keys.id"], name=op.f("fk_batches_key_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_batches")),
    )
    op.create_index("ix_batches_project_id_id", "batches", ["project_id", "id"])
    op.create_table(
        "files",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("project_id", sa.Uuid(), nullable=False),
        sa.Column("filename", sa.Text(), nullable=False),
        sa.Column("purpose", sa.String(32), nullable=False),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        sa.Column("sha256", sa.String(64), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        _instant("expires_at"),
        sa.ForeignKeyConstraint(["project_id"], ["projects.id"], name=op.f("fk_files_project_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_files")),
    )
    op.create_index("ix_files_project_id_id", "files", ["project_id", "id"])


def _check(table: str, name: str, condition: str) -> sa.CheckConstraint:
    return sa.CheckConstraint(condition, name=op.f(f"ck_{table}_{name}"))


def _index(name: str, table: str, columns: list[str], where: str, *, unique: bool = False) -> None:
    condition = sa.text(where)
    op.create_index(name, table, columns, unique=unique, postgresql_where=condition, sqlite_where=condition)


def _drop_index(name: str, table: str, where: str) -> None:
    condition = sa.text(where)
    op.drop_index(name, table_name=table, postgresql_where=condition, sqlite_where=condition)


def _comment(table: str, column: str, text: str) -> None:
    if op.get_bind().dialect.name == "postgresql":
        op.execute(f"COMMENT ON COLUMN {table}.{column} IS '{text}'")


def _instant(name: str, comment: str | None = None) -> sa.Column[object]:
    return sa.Column(name, sa.DateTime(timezone=True), comment=comment)


def _flag(name: str, comment: str) -> sa.Column[bool]:
    return sa.Column(name, sa.Boolean(), server_default=sa.false(), nullable=False, comment=comment)


def _count(name: str) -> sa.Column[int]:
    return sa.Column(name, sa.BigInteger(), server_default=sa.text("0"), nullable=False)
