"""Limits of keys: requests and tokens per minute, and tasks in flight, which are a budget's.

Revision: 0006, after 0005.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

COUNTS = ("reserved_nano", "reserved_tokens", "spent_nano", "spent_tokens", "uncertain_nano", "uncertain_tokens")
BUDGETS = ("id", "project_id", "key_id", "period", "limit_nano", "limit_tokens", "created_at")
PERIODS = ("budget_id", "starts_on", *COUNTS)
CHECKS = (
    ("budgets", "period", "period IN ('day', 'month', 'total', 'in_flight')"),
    ("budgets", "limits_something", "(limit_nano IS NOT NULL OR limit_tokens IS NOT NULL) = (limit_tasks IS NULL)"),
    ("budgets", "tasks_are_in_flight", "(limit_tasks IS NOT NULL) = (period = 'in_flight')"),
    (
        "budget_periods",
        "reserves_nothing_negative",
        "reserved_nano >= 0 AND reserved_tokens >= 0 AND reserved_tasks >= 0",
    ),
)
CHECKS_BEFORE = (
    ("budgets", "period", "period IN ('day', 'month', 'total')"),
    ("budgets", "limits_something", "limit_nano IS NOT NULL OR limit_tokens IS NOT NULL"),
    ("budget_periods", "reserves_nothing_negative", "reserved_nano >= 0 AND reserved_tokens >= 0"),
)
OF_PROJECTS, OF_KEYS = sa.text("key_id IS NULL"), sa.text("key_id IS NOT NULL")


def upgrade() -> None:
    op.add_column("api_keys", sa.Column("requests_per_minute", sa.BigInteger(), comment="null: not limited, as below"))
    op.add_column(
        "api_keys",
        sa.Column(
            "tokens_per_minute", sa.BigInteger(), comment="of interactive tasks; its tasks in flight are a budget's"
        ),
    )
    if op.get_bind().dialect.name == "sqlite":
        _rebuild(CHECKS, with_tasks=True)
    else:
        _drop_checks(CHECKS_BEFORE)
        op.alter_column("budgets", "period", type_=sa.String(16))
        op.add_column("budgets", _limit_tasks())
        op.add_column("budget_periods", _count("reserved_tasks"))
        _add_checks(CHECKS)
    _count_open_tasks()


def downgrade() -> None:
    op.execute("DELETE FROM budget_periods WHERE budget_id IN (SELECT id FROM budgets WHERE period = 'in_flight')")
    op.execute("DELETE FROM budgets WHERE period = 'in_flight'")
    if op.get_bind().dialect.name == "sqlite":
        _rebuild(CHECKS_BEFORE, with_tasks=False)
    else:
        _drop_checks(CHECKS)
        op.drop_column("budget_periods", "reserved_tasks")
        op.drop_column("budgets", "limit_tasks")
        op.alter_column("budgets", "period", type_=sa.String(8))
        _add_checks(CHECKS_BEFORE)
    op.drop_column("api_keys", "tokens_per_minute")
    op.drop_column("api_keys", "requests_per_minute")


def _count_open_tasks() -> None:
    """A task that ends takes itself off each period that it names: those that are open already stand there, too."""
    sqlite = op.get_bind().dialect.name == "sqlite"
    on_postgres = "replace(budget_id::text, '-', '') || '@' || to_char(starts_on, 'YYYY-MM-DD')"
    named = "budget_id || '@' || starts_on" if sqlite else on_postgres
    naming = f"state IN ('queued', 'running') AND charged_to LIKE '%' || {named} || '%'"
    op.execute(f"UPDATE budget_periods SET reserved_tasks = (SELECT count(*) FROM tasks WHERE {naming})")  # noqa: S608


def _drop_checks(checks: tuple[tuple[str, str, str], ...]) -> None:
    for table, name, _ in checks:
        op.drop_constraint(op.f(f"ck_{table}_{name}"), table)


def _add_checks(checks: tuple[tuple[str, str, str], ...]) -> None:
    for table, name, condition in checks:
        op.create_check_constraint(op.f(f"ck_{table}_{name}"), table, condition)


def _rebuild(checks: tuple[tuple[str, str, str], ...], *, with_tasks: bool) -> None:
    """SQLite changes no CHECK of a table that is there. The tables are small, and only they refer to each other."""
    for table in ("budgets", "budget_periods"):
        op.execute(f"CREATE TEMP TABLE kept_{table} AS SELECT * FROM {table}")  # noqa: S608 - named above
    op.drop_table("budget_periods")
    op.drop_table("budgets")
    _create_budgets(checks, with_tasks=with_tasks)
    _create_periods(checks, with_tasks=with_tasks)
    for table, columns in (("budgets", BUDGETS), ("budget_periods", PERIODS)):
        listed = ", ".join(columns)
        op.execute(f"INSERT INTO {table} ({listed}) SELECT {listed} FROM kept_{table}")  # noqa: S608 - named above
        op.execute(f"DROP TABLE kept_{table}")


def _create_budgets(checks: tuple[tuple[str, str, str], ...], *, with_tasks: bool) -> None:
    op.create_table(
        "budgets",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("project_id", sa.Uuid(), nullable=False),
        sa.Column("key_id", sa.String(64), comment="null: the whole project's"),
        sa.Column("period", sa.String(16 if with_tasks else 8), nullable=False),
        sa.Column("limit_nano", sa.BigInteger()),
        sa.Column("limit_tokens", sa.BigInteger()),
        *((_limit_tasks(),) if with_tasks else ()),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        *_checks_of("budgets", checks),
        sa.ForeignKeyConstraint(["key_id"], ["api_keys.id"], name=op.f("fk_budgets_key_id")),
        sa.ForeignKeyConstraint(["project_id"], ["projects.id"], name=op.f("fk_budgets_project_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_budgets")),
    )
    op.create_index("ix_budgets_project_id", "budgets", ["project_id"])
    for column, which in (("project_id", OF_PROJECTS), ("key_id", OF_KEYS)):
        op.create_index(
            f"uq_budgets_{column}_period", "budgets", [column, "period"],
            unique=True, postgresql_where=which, sqlite_where=which,
        )  # fmt: skip


def _create_periods(checks: tuple[tuple[str, str, str], ...], *, with_tasks: bool) -> None:
    op.create_table(
        "budget_periods",
        sa.Column("budget_id", sa.Uuid(), nullable=False),
        sa.Column("starts_on", sa.Date(), nullable=False),
        *(_count(name) for name in (*COUNTS, *(("reserved_tasks",) if with_tasks else ()))),
        *_checks_of("budget_periods", checks),
        sa.ForeignKeyConstraint(["budget_id"], ["budgets.id"], name=op.f("fk_budget_periods_budget_id")),
        sa.PrimaryKeyConstraint("budget_id", "starts_on", name=op.f("pk_budget_periods")),
    )


def _checks_of(table: str, checks: tuple[tuple[str, str, str], ...]) -> list[sa.CheckConstraint]:
    return [
        sa.CheckConstraint(condition, name=op.f(f"ck_{table}_{name}")) for of, name, condition in checks if of == table
    ]


def _limit_tasks() -> sa.Column[int]:
    return sa.Column("limit_tasks", sa.BigInteger(), comment="open at once; only of period in_flight")


def _count(name: str) -> sa.Column[int]:
    return sa.Column(name, sa.BigInteger(), server_default=sa.text("0"), nullable=False)
