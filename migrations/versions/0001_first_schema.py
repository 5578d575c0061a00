"""The first schema: tasks, attempts, the accounts, keys, workers, and room for files, batches and webhooks.

Revision: 0001, after nothing.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "masters",
        sa.Column("fingerprint", sa.String(length=16), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("fingerprint", name=op.f("pk_masters")),
        comment="fingerprints of the master keys that ever made a key here; a stranger stops the start",
    )
    op.create_table(
        "pauses",
        sa.Column("upstream", sa.String(length=128), nullable=False),
        sa.Column("credential", sa.String(length=128), nullable=False, comment="the variable that holds the key"),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("since", sa.DateTime(timezone=True), nullable=False),
        sa.Column(
            "until", sa.DateTime(timezone=True), nullable=False, comment="one probe task then lifts it, or pauses on"
        ),
        sa.PrimaryKeyConstraint("upstream", "credential", name=op.f("pk_pauses")),
    )
    op.create_table(
        "prices",
        sa.Column("id", sa.String(length=256), nullable=False, comment="upstream/model@valid-from#digest"),
        sa.Column("upstream", sa.String(length=128), nullable=False),
        sa.Column("model", sa.String(length=128), nullable=False),
        sa.Column("valid_from", sa.DateTime(timezone=True), nullable=False),
        sa.Column("content", sa.Text(), nullable=False, comment="JSON: tiers, currency; never changed once written"),
        sa.Column(
            "published_at",
            sa.DateTime(timezone=True),
            nullable=False,
            comment="of two with one valid-from the later published counts",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_prices")),
    )
    op.create_table(
        "projects",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_projects")),
        sa.UniqueConstraint("name", name=op.f("uq_projects_name")),
    )
    op.create_table(
        "workers",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False, comment="host and process, for people"),
        sa.Column("lanes", sa.Text(), nullable=False, comment="comma-separated"),
        sa.Column("load", sa.Text(), nullable=False, comment="JSON: route -> [settled in the last 10 s, free slots]"),
        sa.Column(
            "heartbeat", sa.BigInteger(), nullable=False, comment="counts beats; watchers compare values, never clocks"
        ),
        sa.Column("dead", sa.Boolean(), server_default=sa.false(), nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("seen_at", sa.DateTime(timezone=True), nullable=False, comment="of the last heartbeat, for people"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_workers")),
    )
    op.create_index(
        "ix_workers_alive",
        "workers",
        ["id"],
        unique=False,
        postgresql_where=sa.text("NOT dead"),
        sqlite_where=sa.text("NOT dead"),
    )
    op.create_table(
        "api_keys",
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("project_id", sa.Uuid(), nullable=False),
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("role", sa.String(length=8), nullable=False),
        sa.Column("master", sa.String(length=16), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("models", sa.Text(), nullable=True, comment="JSON list of the models it may use; null: all"),
        sa.Column(
            "may_interactive",
            sa.Boolean(),
            server_default=sa.true(),
            nullable=False,
            comment="its right to priority interactive",
        ),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("revoked_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint("role IN ('user', 'admin')", name=op.f("ck_api_keys_role")),
        sa.ForeignKeyConstraint(["master"], ["masters.fingerprint"], name=op.f("fk_api_keys_master")),
        sa.ForeignKeyConstraint(["project_id"], ["projects.id"], name=op.f("fk_api_keys_project_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_api_keys")),
        comment="no secret: it is derived from the master key, id and version",
    )
    op.create_index("ix_api_keys_project_id", "api_keys", ["project_id"], unique=False)
    op.create_table(
        "files",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("project_id", sa.Uuid(), nullable=False),
        sa.Column("filename", sa.Text(), nullable=False),
        sa.Column("purpose", sa.String(length=32), nullable=False),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(["project_id"], ["projects.id"], name=op.f("fk_files_project_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_files")),
    )
    op.create_index("ix_files_project_id_id", "files", ["project_id", "id"], unique=False)
    op.create_table(
        "labels",
        sa.Column("project_id", sa.Uuid(), nullable=False),
        sa.Column("label", sa.String(length=64), nullable=False),
        sa.ForeignKeyConstraint(["project_id"], ["projects.id"], name=op.f("fk_labels_project_id")),
        sa.PrimaryKeyConstraint("project_id", "label", name=op.f("pk_labels")),
        comment="the labels in use: a dimension of the accounts, so their number a project is bounded",
    )
    op.create_table(
        "usage_hourly",
        sa.Column("hour", sa.DateTime(timezone=True), nullable=False),
        sa.Column("project_id", sa.Uuid(), nullable=False),
        sa.Column("key_id", sa.String(length=64), nullable=False),
        sa.Column("model", sa.String(length=128), nullable=False),
        sa.Column(
            "upstream", sa.String(length=128), nullable=False, comment="'' for tasks that ended without an attempt"
        ),
        sa.Column("label", sa.String(length=64), nullable=False, comment="'' for none"),
        sa.Column("shard", sa.SmallInteger(), nullable=False, comment="0..15: settling workers do not queue up"),
        sa.Column("tasks_succeeded", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("tasks_failed", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("attempts", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("attempts_failed", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("attempts_uncertain", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("attempts_unpriced", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("attempts_estimated", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("prompt_tokens", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("cached_tokens", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("completion_tokens", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("cost_nano", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("possible_cost_nano", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.ForeignKeyConstraint(["project_id"], ["projects.id"], name=op.f("fk_usage_hourly_project_id")),
        sa.PrimaryKeyConstraint(
            "hour", "project_id", "key_id", "model", "upstream", "label", "shard", name=op.f("pk_usage_hourly")
        ),
        comment="attempts by the hour of their start, ends of tasks by the hour of their end",
    )
    op.create_index("ix_usage_hourly_project_id_hour", "usage_hourly", ["project_id", "hour"], unique=False)
    op.create_table(
        "webhooks",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("project_id", sa.Uuid(), nullable=False),
        sa.Column("url", sa.Text(), nullable=False),
        sa.Column("events", sa.Text(), nullable=False, comment="JSON list"),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("disabled_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(["project_id"], ["projects.id"], name=op.f("fk_webhooks_project_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_webhooks")),
    )
    op.create_index("ix_webhooks_project_id", "webhooks", ["project_id"], unique=False)
    op.create_table(
        "batches",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("project_id", sa.Uuid(), nullable=False),
        sa.Column("key_id", sa.String(length=64), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("endpoint", sa.String(length=64), nullable=False),
        sa.Column("input_file_id", sa.Uuid(), nullable=True),
        sa.Column("output_file_id", sa.Uuid(), nullable=True),
        sa.Column("error_file_id", sa.Uuid(), nullable=True),
        sa.Column("via", sa.String(length=16), server_default="direct", nullable=False),
        sa.Column("max_cost_nano", sa.BigInteger(), nullable=True),
        sa.Column("metadata", sa.Text(), nullable=True),
        sa.Column("total", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("completed", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("failed", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("ended_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint(
            "state IN ('validating', 'in_progress', 'paused', 'finalizing', "
            "'completed', 'failed', 'expired', 'cancelling', 'cancelled')",
            name=op.f("ck_batches_state"),
        ),
        sa.CheckConstraint("via IN ('direct', 'upstream_batch', 'local')", name=op.f("ck_batches_via")),
        sa.ForeignKeyConstraint(["key_id"], ["api_keys.id"], name=op.f("fk_batches_key_id")),
        sa.ForeignKeyConstraint(["project_id"], ["projects.id"], name=op.f("fk_batches_project_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_batches")),
    )
    op.create_index("ix_batches_project_id_id", "batches", ["project_id", "id"], unique=False)
    op.create_table(
        "budgets",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("project_id", sa.Uuid(), nullable=False),
        sa.Column("key_id", sa.String(length=64), nullable=True, comment="null: the whole project's"),
        sa.Column("period", sa.String(length=8), nullable=False),
        sa.Column("limit_nano", sa.BigInteger(), nullable=True),
        sa.Column("limit_tokens", sa.BigInteger(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint("period IN ('day', 'month', 'total')", name=op.f("ck_budgets_period")),
        sa.CheckConstraint(
            "limit_nano IS NOT NULL OR limit_tokens IS NOT NULL", name=op.f("ck_budgets_limits_something")
        ),
        sa.ForeignKeyConstraint(["key_id"], ["api_keys.id"], name=op.f("fk_budgets_key_id")),
        sa.ForeignKeyConstraint(["project_id"], ["projects.id"], name=op.f("fk_budgets_project_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_budgets")),
    )
    op.create_index("ix_budgets_project_id", "budgets", ["project_id"], unique=False)
    op.create_table(
        "webhook_deliveries",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("webhook_id", sa.Uuid(), nullable=False),
        sa.Column("task_id", sa.Uuid(), nullable=True),
        sa.Column("batch_id", sa.Uuid(), nullable=True),
        sa.Column("event", sa.String(length=32), nullable=False),
        sa.Column("tries", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("not_before", sa.DateTime(timezone=True), nullable=False),
        sa.Column("delivered_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("failed_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(["webhook_id"], ["webhooks.id"], name=op.f("fk_webhook_deliveries_webhook_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_webhook_deliveries")),
    )
    op.create_index(
        "ix_webhook_deliveries_due",
        "webhook_deliveries",
        ["not_before"],
        unique=False,
        postgresql_where=sa.text("delivered_at IS NULL AND failed_at IS NULL"),
        sqlite_where=sa.text("delivered_at IS NULL AND failed_at IS NULL"),
    )
    op.create_table(
        "budget_periods",
        sa.Column("budget_id", sa.Uuid(), nullable=False),
        sa.Column("starts_on", sa.Date(), nullable=False),
        sa.Column("reserved_nano", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("reserved_tokens", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("spent_nano", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("spent_tokens", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.CheckConstraint(
            "reserved_nano >= 0 AND reserved_tokens >= 0", name=op.f("ck_budget_periods_reserves_nothing_negative")
        ),
        sa.ForeignKeyConstraint(["budget_id"], ["budgets.id"], name=op.f("fk_budget_periods_budget_id")),
        sa.PrimaryKeyConstraint("budget_id", "starts_on", name=op.f("pk_budget_periods")),
    )
    op.create_table(
        "tasks",
        sa.Column("id", sa.Uuid(), nullable=False, comment="UUIDv7: sorts by the time of submission"),
        sa.Column("project_id", sa.Uuid(), nullable=False),
        sa.Column("key_id", sa.String(length=64), nullable=False),
        sa.Column("batch_id", sa.Uuid(), nullable=True),
        sa.Column("custom_id", sa.Text(), nullable=True),
        sa.Column("request_id", sa.Text(), nullable=True, comment="the client's; idempotency key within the project"),
        sa.Column("digest", sa.String(length=64), nullable=False, comment="SHA-256 of the parsed request"),
        sa.Column("label", sa.String(length=64), nullable=True),
        sa.Column("endpoint", sa.String(length=16), server_default="chat", nullable=False),
        sa.Column("model", sa.String(length=128), nullable=False, comment="the name the client asked for"),
        sa.Column("route", sa.String(length=256), nullable=False, comment="upstream/model there: where it runs next"),
        sa.Column("lane", sa.String(length=32), nullable=False, comment="the Celery queue: place and priority"),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column(
            "fence",
            sa.Integer(),
            server_default=sa.text("0"),
            nullable=False,
            comment="counts leases; guards every transition",
        ),
        sa.Column(
            "attempt",
            sa.Integer(),
            server_default=sa.text("1"),
            nullable=False,
            comment="number of the open or next purchase",
        ),
        sa.Column(
            "tries",
            sa.Integer(),
            server_default=sa.text("0"),
            nullable=False,
            comment="failed tries so far, over all attempts",
        ),
        sa.Column("worker_id", sa.Uuid(), nullable=True, comment="who holds the lease while running"),
        sa.Column(
            "announced_at",
            sa.DateTime(timezone=True),
            nullable=True,
            comment="lease on the hint: announced again some time after",
        ),
        sa.Column(
            "not_before",
            sa.DateTime(timezone=True),
            nullable=False,
            comment="due from then on: run_after, or the next retry",
        ),
        sa.Column("deadline", sa.DateTime(timezone=True), nullable=False, comment="queued past it, the task expires"),
        sa.Column("retry_until", sa.DateTime(timezone=True), nullable=False, comment="no retry starts after it"),
        sa.Column("on_uncertain", sa.String(length=8), server_default="retry", nullable=False),
        sa.Column("cancel_requested_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("prompt_tokens_estimate", sa.Integer(), nullable=False, comment="of the request, leaning high"),
        sa.Column("max_tokens", sa.Integer(), nullable=True, comment="the request's own bound on the completion"),
        sa.Column("reserved_nano", sa.BigInteger(), nullable=True, comment="held in the budgets; null: nothing is"),
        sa.Column("reserved_tokens", sa.BigInteger(), nullable=True),
        sa.Column("reserved_period", sa.Date(), nullable=True, comment="the day whose budget periods hold it"),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=True, comment="first claimed"),
        sa.Column("ended_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint("(state = 'running') = (worker_id IS NOT NULL)", name=op.f("ck_tasks_running_has_worker")),
        sa.CheckConstraint(
            "(state IN ('queued', 'running')) = (ended_at IS NULL)", name=op.f("ck_tasks_ended_has_time")
        ),
        sa.CheckConstraint("endpoint IN ('chat', 'embeddings')", name=op.f("ck_tasks_endpoint")),
        sa.CheckConstraint(
            "lane IN ('cloud.interactive', 'cloud.bulk', 'local.interactive', 'local.bulk')", name=op.f("ck_tasks_lane")
        ),
        sa.CheckConstraint("on_uncertain IN ('retry', 'fail')", name=op.f("ck_tasks_on_uncertain")),
        sa.CheckConstraint(
            "state IN ('queued', 'running', 'succeeded', 'failed', 'cancelled', 'expired')", name=op.f("ck_tasks_state")
        ),
        sa.ForeignKeyConstraint(["batch_id"], ["batches.id"], name=op.f("fk_tasks_batch_id")),
        sa.ForeignKeyConstraint(["key_id"], ["api_keys.id"], name=op.f("fk_tasks_key_id")),
        sa.ForeignKeyConstraint(["project_id"], ["projects.id"], name=op.f("fk_tasks_project_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_tasks")),
    )
    op.create_index(
        "ix_tasks_batch_id_id",
        "tasks",
        ["batch_id", "id"],
        unique=False,
        postgresql_where=sa.text("batch_id IS NOT NULL"),
        sqlite_where=sa.text("batch_id IS NOT NULL"),
    )
    op.create_index(
        "ix_tasks_deadline",
        "tasks",
        ["deadline"],
        unique=False,
        postgresql_where=sa.text("state = 'queued'"),
        sqlite_where=sa.text("state = 'queued'"),
    )
    op.create_index(
        "ix_tasks_due",
        "tasks",
        ["route", "lane", "not_before"],
        unique=False,
        postgresql_where=sa.text("state = 'queued'"),
        sqlite_where=sa.text("state = 'queued'"),
    )
    op.create_index(
        "ix_tasks_project_id_custom_id",
        "tasks",
        ["project_id", "custom_id"],
        unique=False,
        postgresql_where=sa.text("custom_id IS NOT NULL"),
        sqlite_where=sa.text("custom_id IS NOT NULL"),
    )
    op.create_index("ix_tasks_project_id_id", "tasks", ["project_id", "id"], unique=False)
    op.create_index(
        "ix_tasks_worker_id",
        "tasks",
        ["worker_id"],
        unique=False,
        postgresql_where=sa.text("state = 'running'"),
        sqlite_where=sa.text("state = 'running'"),
    )
    op.create_index(
        "uq_tasks_project_id_request_id",
        "tasks",
        ["project_id", "request_id"],
        unique=True,
        postgresql_where=sa.text("request_id IS NOT NULL"),
        sqlite_where=sa.text("request_id IS NOT NULL"),
    )
    op.create_table(
        "attempts",
        sa.Column("task_id", sa.Uuid(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False, comment="counts purchases"),
        sa.Column("fence", sa.Integer(), nullable=False, comment="the lease that last held it"),
        sa.Column("worker_id", sa.Uuid(), nullable=False),
        sa.Column("upstream", sa.String(length=128), nullable=False),
        sa.Column("upstream_model", sa.String(length=128), nullable=False),
        sa.Column("mode", sa.String(length=8), server_default="direct", nullable=False),
        sa.Column("request_id", sa.String(length=64), nullable=False, comment="ours, sent upstream"),
        sa.Column("upstream_id", sa.Text(), nullable=True, comment="the upstream's id of a call that is polled"),
        sa.Column("outcome", sa.String(length=16), nullable=False),
        sa.Column("tries", sa.Integer(), nullable=False, comment="how often it was sent"),
        sa.Column("http_status", sa.Integer(), nullable=True),
        sa.Column("error_code", sa.String(length=64), nullable=True),
        sa.Column("error_message", sa.Text(), nullable=True),
        sa.Column("prompt_tokens", sa.Integer(), nullable=True),
        sa.Column("cached_tokens", sa.Integer(), nullable=True),
        sa.Column("completion_tokens", sa.Integer(), nullable=True),
        sa.Column("price_id", sa.String(length=256), nullable=True, comment="price version; null: unpriced"),
        sa.Column("price_tier", sa.String(length=64), nullable=True),
        sa.Column(
            "cost_nano", sa.BigInteger(), nullable=True, comment="null: nothing was billed, or there is no price"
        ),
        sa.Column("cost_estimated", sa.Boolean(), server_default=sa.false(), nullable=False),
        sa.Column("possible_cost_nano", sa.BigInteger(), nullable=True, comment="of an uncertain attempt"),
        sa.Column(
            "started_at", sa.DateTime(timezone=True), nullable=False, comment="its hour is where the roll-up books it"
        ),
        sa.Column("ended_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint("(outcome = 'open') = (ended_at IS NULL)", name=op.f("ck_attempts_ended_has_time")),
        sa.CheckConstraint("mode IN ('direct', 'async', 'batch', 'local')", name=op.f("ck_attempts_mode")),
        sa.CheckConstraint(
            "outcome IN ('open', 'succeeded', 'failed', 'uncertain', 'abandoned')", name=op.f("ck_attempts_outcome")
        ),
        sa.ForeignKeyConstraint(["price_id"], ["prices.id"], name=op.f("fk_attempts_price_id")),
        sa.ForeignKeyConstraint(["task_id"], ["tasks.id"], name=op.f("fk_attempts_task_id")),
        sa.PrimaryKeyConstraint("task_id", "number", name=op.f("pk_attempts")),
    )
    op.create_table(
        "task_requests",
        sa.Column("task_id", sa.Uuid(), nullable=False),
        sa.Column(
            "body", sa.Text(), nullable=False, comment="JSON: what the upstream is sent, with the client's model name"
        ),
        sa.Column("metadata", sa.Text(), nullable=True, comment="JSON: the client's own, never sent upstream"),
        sa.ForeignKeyConstraint(["task_id"], ["tasks.id"], name=op.f("fk_task_requests_task_id")),
        sa.PrimaryKeyConstraint("task_id", name=op.f("pk_task_requests")),
    )
    op.create_table(
        "task_results",
        sa.Column("task_id", sa.Uuid(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False, comment="0: ended without one"),
        sa.Column("body", sa.Text(), nullable=True, comment="JSON as the upstream sent it"),
        sa.Column("error_code", sa.String(length=64), nullable=True),
        sa.Column("error_message", sa.Text(), nullable=True),
        sa.CheckConstraint("(body IS NULL) <> (error_code IS NULL)", name=op.f("ck_task_results_result_or_error")),
        sa.ForeignKeyConstraint(["task_id"], ["tasks.id"], name=op.f("fk_task_results_task_id")),
        sa.PrimaryKeyConstraint("task_id", name=op.f("pk_task_results")),
    )


def downgrade() -> None:
    op.drop_table("task_results")
    op.drop_table("task_requests")
    op.drop_table("attempts")
    op.drop_index(
        "uq_tasks_project_id_request_id",
        table_name="tasks",
        postgresql_where=sa.text("request_id IS NOT NULL"),
        sqlite_where=sa.text("request_id IS NOT NULL"),
    )
    op.drop_index(
        "ix_tasks_worker_id",
        table_name="tasks",
        postgresql_where=sa.text("state = 'running'"),
        sqlite_where=sa.text("state = 'running'"),
    )
    op.drop_index("ix_tasks_project_id_id", table_name="tasks")
    op.drop_index(
        "ix_tasks_project_id_custom_id",
        table_name="tasks",
        postgresql_where=sa.text("custom_id IS NOT NULL"),
        sqlite_where=sa.text("custom_id IS NOT NULL"),
    )
    op.drop_index(
        "ix_tasks_due",
        table_name="tasks",
        postgresql_where=sa.text("state = 'queued'"),
        sqlite_where=sa.text("state = 'queued'"),
    )
    op.drop_index(
        "ix_tasks_deadline",
        table_name="tasks",
        postgresql_where=sa.text("state = 'queued'"),
        sqlite_where=sa.text("state = 'queued'"),
    )
    op.drop_index(
        "ix_tasks_batch_id_id",
        table_name="tasks",
        postgresql_where=sa.text("batch_id IS NOT NULL"),
        sqlite_where=sa.text("batch_id IS NOT NULL"),
    )
    op.drop_table("tasks")
    op.drop_table("budget_periods")
    op.drop_index(
        "ix_webhook_deliveries_due",
        table_name="webhook_deliveries",
        postgresql_where=sa.text("delivered_at IS NULL AND failed_at IS NULL"),
        sqlite_where=sa.text("delivered_at IS NULL AND failed_at IS NULL"),
    )
    op.drop_table("webhook_deliveries")
    op.drop_index("ix_budgets_project_id", table_name="budgets")
    op.drop_table("budgets")
    op.drop_index("ix_batches_project_id_id", table_name="batches")
    op.drop_table("batches")
    op.drop_index("ix_webhooks_project_id", table_name="webhooks")
    op.drop_table("webhooks")
    op.drop_index("ix_usage_hourly_project_id_hour", table_name="usage_hourly")
    op.drop_table("usage_hourly")
    op.drop_table("labels")
    op.drop_index("ix_files_project_id_id", table_name="files")
    op.drop_table("files")
    op.drop_index("ix_api_keys_project_id", table_name="api_keys")
    op.drop_table("api_keys")
    op.drop_index(
        "ix_workers_alive", table_name="workers", postgresql_where=sa.text("NOT dead"), sqlite_where=sa.text("NOT dead")
    )
    op.drop_table("workers")
    op.drop_table("projects")
    op.drop_table("prices")
    op.drop_table("pauses")
    op.drop_table("masters")
