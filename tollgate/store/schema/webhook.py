"""Endpoints, what signs for them, and the deliveries to them."""

from __future__ import annotations

import sqlalchemy as sa

from tollgate.domain.webhooks import DeliveryState
from tollgate.store.schema.columns import Instant, metadata, one_of, partial, required

webhooks = sa.Table(
    "webhooks",
    metadata,
    sa.Column("id", sa.Uuid, primary_key=True),
    required("project_id", sa.Uuid, sa.ForeignKey("projects.id")),
    required("url", sa.Text),
    sa.Column("events", sa.Text, comment="JSON list; null: all there are"),
    sa.Column("description", sa.Text),
    required("master", sa.String(16), sa.ForeignKey("masters.fingerprint")),
    required("created_at", Instant),
    sa.Column("disabled_at", Instant),
    sa.Column("disabled_why", sa.Text),
    sa.Column("deleted_at", Instant, comment="it stays, for the deliveries that were made to it"),
    sa.Index("ix_webhooks_project_id", "project_id"),
    comment="no secret: it is derived from the master key and the id",
)

callback_secrets = sa.Table(
    "callback_secrets",
    metadata,
    sa.Column("project_id", sa.Uuid, sa.ForeignKey("projects.id"), primary_key=True),
    required("master", sa.String(16), sa.ForeignKey("masters.fingerprint")),
    required("version", sa.Integer),
    required("created_at", Instant),
    comment="what signs the deliveries to a project's callback_urls; made when it is first needed",
)

PENDING = sa.literal(DeliveryState.PENDING, sa.String(16), literal_execute=True)
"""For conditions, as QUEUED is."""
_WHERE_PENDING = sa.text("state = 'pending'")
_WHERE_ENDED = sa.text("ended_at IS NOT NULL")
_WHERE_FAILED = sa.text("state = 'failed'")

webhook_deliveries = sa.Table(
    "webhook_deliveries",
    metadata,
    sa.Column("id", sa.Uuid, primary_key=True, comment="also of the message: the same for each try"),
    required("project_id", sa.Uuid, sa.ForeignKey("projects.id")),
    sa.Column("webhook_id", sa.Uuid, sa.ForeignKey("webhooks.id"), comment="null: to the callback_url in `url`"),
    sa.Column("url", sa.Text),
    required("host", sa.Text, comment="of the URL, and the project: what is in flight is bounded by both"),
    sa.Column("task_id", sa.Uuid),
    sa.Column("batch_id", sa.Uuid),
    required("event", sa.String(32)),
    required("state", sa.String(16)),
    required("tries", sa.Integer, server_default=sa.text("0"), comment="begun so far; guards what a try may write"),
    required("tries_before", sa.Integer, server_default=sa.text("0"), comment="those of earlier rounds"),
    required("not_before", Instant, comment="due from then on; while it is sent, the end of the sender's lease"),
    required("created_at", Instant),
    sa.Column("first_tried_at", Instant, comment="in this round: it is given up a day later"),
    sa.Column("last_tried_at", Instant),
    sa.Column("ended_at", Instant),
    sa.Column("http_status", sa.Integer, comment="of the last try that was answered"),
    sa.Column("error", sa.Text, comment="of the last try; null: it was delivered"),
    sa.Column("response", sa.Text, comment="how the last answer began"),
    one_of("state", DeliveryState),
    sa.CheckConstraint("(state = 'pending') = (ended_at IS NULL)", name="ended_has_time"),
    sa.CheckConstraint("(webhook_id IS NULL) = (url IS NOT NULL)", name="goes_to_one"),
    partial("ix_webhook_deliveries_due", "host", "not_before", where=_WHERE_PENDING),
    sa.Index("ix_webhook_deliveries_project_id_id", "project_id", "id"),
    partial("ix_webhook_deliveries_project_id_failed", "project_id", "id", where=_WHERE_FAILED),
    sa.Index("ix_webhook_deliveries_webhook_id_id", "webhook_id", "id"),
    sa.Index("ix_webhook_deliveries_task_id", "task_id"),
    partial("ix_webhook_deliveries_ended", "state", "ended_at", where=_WHERE_ENDED),
)
