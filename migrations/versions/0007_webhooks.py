"""Webhooks: callback_urls, endpoints, and deliveries that are tried again.

Revision: 0007, after 0006.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

PENDING, ENDED, FAILED = sa.text("state = 'pending'"), sa.text("ended_at IS NOT NULL"), sa.text("state = 'failed'")
OPEN = sa.text("delivered_at IS NULL AND failed_at IS NULL")


def upgrade() -> None:
    for table in ("tasks", "batches"):
        op.add_column(table, sa.Column("callback_url", sa.Text(), comment="told of its end"))
    # Until now nothing wrote to these: they were only kept free.
    op.drop_table("webhook_deliveries")
    op.drop_table("webhooks")
    _create_webhooks()
    _create_deliveries()


def _create_webhooks() -> None:
    op.create_table(
        "webhooks",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("project_id", sa.Uuid(), nullable=False),
        sa.Column("url", sa.Text(), nullable=False),
        sa.Column("events", sa.Text(), comment="JSON list; null: all there are"),
        sa.Column("description", sa.Text()),
        sa.Column("master", sa.String(16), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("disabled_at", sa.DateTime(timezone=True)),
        sa.Column("disabled_why", sa.Text()),
        sa.Column(
            "deleted_at",
            sa.DateTime(timezone=True),
            comment="it stays, for the deliveries that were made to it",
        ),
        sa.ForeignKeyConstraint(["project_id"], ["projects.id"], name="fk_webhooks_project_id"),
        sa.ForeignKeyConstraint(["master"], ["masters.fingerprint"], name="fk_webhooks_master"),
        sa.PrimaryKeyConstraint("id", name="pk_webhooks"),
        comment="no secret: it is derived from the master key and the id",
    )
    op.create_index("ix_webhooks_project_id", "webhooks", ["project_id"])
    op.create_table(
        "callback_secrets",
        sa.Column("project_id", sa.Uuid(), nullable=False),
        sa.Column("master", sa.String(16), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["project_id"], ["projects.id"], name="fk_callback_secrets_project_id"),
        sa.ForeignKeyConstraint(["master"], ["masters.fingerprint"], name="fk_callback_secrets_master"),
        sa.PrimaryKeyConstraint("project_id", name="pk_callback_secrets"),
        comment="what signs the deliveries to a project's callback_urls; made when it is first needed",
    )


def _create_deliveries() -> None:
    op.create_table(
        "webhook_deliveries",
        sa.Column("id", sa.Uuid(), nullable=False, comment="also of the message: the same for each try"),
        sa.Column("project_id", sa.Uuid(), nullable=False),
        sa.Column("webhook_id", sa.Uuid(), comment="null: to the callback_url in `url`"),
        sa.Column("url", sa.Text()),
        sa.Column(
            "host",
            sa.Text(),
            nullable=False,
            comment="of the URL, and the project: what is in flight is bounded by both",
        ),
        sa.Column("task_id", sa.Uuid()),
        sa.Column("batch_id", sa.Uuid()),
        sa.Column("event", sa.String(32), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column(
            "tries",
            sa.Integer(),
            nullable=False,
            server_default=sa.text("0"),
            comment="begun so far; guards what a try may write",
        ),
        sa.Column(
            "tries_before",
            sa.Integer(),
            nullable=False,
            server_default=sa.text("0"),
            comment="those of earlier rounds",
        ),
        sa.Column(
            "not_before",
            sa.DateTime(timezone=True),
            nullable=False,
            comment="due from then on; while it is sent, the end of the sender's lease",
        ),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("first_tried_at", sa.DateTime(timezone=True), comment="in this round: it is given up a day later"),
        sa.Column("last_tried_at", sa.DateTime(timezone=True)),
        sa.Column("ended_at", sa.DateTime(timezone=True)),
        sa.Column("http_status", sa.Integer(), comment="of the last try that was answered"),
        sa.Column("error", sa.Text(), comment="of the last try; null: it was delivered"),
        sa.Column("response", sa.Text(), comment="how the last answer began"),
        sa.CheckConstraint("state IN ('pending', 'delivered', 'failed')", name=op.f("ck_webhook_deliveries_state")),
        sa.CheckConstraint(
            "(state = 'pending') = (ended_at IS NULL)", name=op.f("ck_webhook_deliveries_ended_has_time")
        ),
        sa.CheckConstraint("(webhook_id IS NULL) = (url IS NOT NULL)", name=op.f("ck_webhook_deliveries_goes_to_one")),
        sa.ForeignKeyConstraint(["project_id"], ["projects.id"], name="fk_webhook_deliveries_project_id"),
        sa.ForeignKeyConstraint(["webhook_id"], ["webhooks.id"], name="fk_webhook_deliveries_webhook_id"),
        sa.PrimaryKeyConstraint("id", name="pk_webhook_deliveries"),
    )
    for name, columns, where in (
        ("due", ["host", "not_before"], PENDING),
        ("project_id_id", ["project_id", "id"], None),
        ("project_id_failed", ["project_id", "id"], FAILED),
        ("webhook_id_id", ["webhook_id", "id"], None),
        ("task_id", ["task_id"], None),
        ("ended", ["state", "ended_at"], ENDED),
    ):
        op.create_index(
            f"ix_webhook_deliveries_{name}", "webhook_deliveries", columns,
            postgresql_where=where, sqlite_where=where,
        )  # fmt: skip


def downgrade() -> None:
    op.drop_table("webhook_deliveries")
    op.drop_table("callback_secrets")
    op.drop_table("webhooks")
    op.create_table(
        "webhooks",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("project_id", sa.Uuid(), nullable=False),
        sa.Column("url", sa.Text(), nullable=False),
        sa.Column("events", sa.Text(), nullable=False, comment="JSON list"),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("disabled_at", sa.DateTime(timezone=True)),
        sa.ForeignKeyConstraint(["project_id"], ["projects.id"], name="fk_webhooks_project_id"),
        sa.PrimaryKeyConstraint("id", name="pk_webhooks"),
    )
    op.create_index("ix_webhooks_project_id", "webhooks", ["project_id"])
    op.create_table(
        "webhook_deliveries",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("webhook_id", sa.Uuid(), nullable=False),
        sa.Column("task_id", sa.Uuid()),
        sa.Column("batch_id", sa.Uuid()),
        sa.Column("event", sa.String(32), nullable=False),
        sa.Column("tries", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("not_before", sa.DateTime(timezone=True), nullable=False),
        sa.Column("delivered_at", sa.DateTime(timezone=True)),
        sa.Column("failed_at", sa.DateTime(timezone=True)),
        sa.ForeignKeyConstraint(["webhook_id"], ["webhooks.id"], name="fk_webhook_deliveries_webhook_id"),
        sa.PrimaryKeyConstraint("id", name="pk_webhook_deliveries"),
    )
    op.create_index(
        "ix_webhook_deliveries_due", "webhook_deliveries", ["not_before"], postgresql_where=OPEN, sqlite_where=OPEN
    )
    for table in ("batches", "tasks"):
        op.drop_column(table, "callback_url")
