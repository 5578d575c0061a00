"""Batches, and the lines of their inputs that became no task."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from tollgate.domain.batches import BatchState, Via
from tollgate.domain.states import Priority
from tollgate.store.schema.columns import Instant, count, metadata, one_of, partial, required

_OPEN_BATCH = sa.text("ended_at IS NULL")
_ERASING_BATCH = sa.text("erase_asked_at IS NOT NULL AND erased_at IS NULL")

batches = sa.Table(
    "batches",
    metadata,
    sa.Column("id", sa.Uuid, primary_key=True),
    required("project_id", sa.Uuid, sa.ForeignKey("projects.id")),
    required("key_id", sa.String(64), sa.ForeignKey("api_keys.id")),
    sa.Column("request_id", sa.Text, comment="the client's; idempotency key within the project"),
    required("digest", sa.String(64), comment="SHA-256 of what was asked"),
    required("state", sa.String(16)),
    required("endpoint", sa.Text, comment="as the client wrote it: /v1/chat/completions"),
    sa.Column("name", sa.Text, comment="of the input, for people"),
    sa.Column("input_file_id", sa.Uuid, comment="the file itself may be gone"),
    required("input_bytes", sa.BigInteger),
    required("delete_input", sa.Boolean, server_default=sa.false(), comment="once it is taken in"),
    sa.Column("output_file_id", sa.Uuid),
    sa.Column("error_file_id", sa.Uuid),
    required("via", sa.String(16), server_default="direct"),
    required("priority", sa.String(16)),
    required(
        "strict", sa.Boolean, server_default=sa.false(), comment="one invalid line fails it, before anything runs"
    ),
    sa.Column("defaults", sa.Text, comment="JSON: model, label and parameters of lines that do not say them"),
    sa.Column("max_cost_nano", sa.BigInteger, comment="also the limit of its own budget"),
    sa.Column("metadata", sa.Text),
    sa.Column("callback_url", sa.Text, comment="told of its end"),
    required("window_s", sa.Integer, comment="from created_at to expires_at"),
    count("total"),
    count("accepted"),
    count("invalid"),
    count("taken_bytes"),
    count("taken_lines"),
    required(
        "grouped_lines",
        sa.BigInteger,
        server_default=sa.text("0"),
        comment="up to there they stand in upstream batches",
    ),
    sa.Column("taken_at", Instant, comment="of the last step of its intake: another gateway goes on with a stale one"),
    sa.Column("paused_at", Instant, comment="no line of it is told or claimed"),
    sa.Column("paused_code", sa.String(32)),
    sa.Column("paused_why", sa.Text),
    sa.Column("error_code", sa.String(64)),
    sa.Column("error_message", sa.Text, comment="of one that failed as a whole"),
    required("created_at", Instant),
    required("expires_at", Instant),
    sa.Column("in_progress_at", Instant, comment="all of its lines were taken in"),
    sa.Column("cancelling_at", Instant),
    sa.Column("retry_asked_at", Instant, comment="lines that failed before it are to be tried again"),
    sa.Column("ended_at", Instant),
    sa.Column("erase_asked_at", Instant, comment="deleted: from then on it is shown to nobody"),
    count("erased_lines"),
    sa.Column("erased_at", Instant, comment="nothing is left of its lines' texts"),
    one_of("state", BatchState),
    one_of("via", Via),
    one_of("priority", Priority),
    sa.CheckConstraint(
        "(state IN ('validating', 'in_progress', 'cancelling')) = (ended_at IS NULL)", name="ended_has_time"
    ),
    sa.Index("ix_batches_project_id_id", "project_id", "id"),
    partial("ix_batches_open", "id", where=_OPEN_BATCH),
    partial("ix_batches_erasing", "id", where=_ERASING_BATCH),
    partial(
        "uq_batches_project_id_request_id", "project_id", "request_id", unique=True, where="request_id IS NOT NULL"
    ),
    sa.Index("ix_batches_input_file_id", "input_file_id"),
    comment="total: lines of the input; accepted: those that became tasks; taken: how far its intake came",
)

_state = batches.c.state
_BEGINS_LINES = sa.and_(
    batches.c.paused_at.is_(None),
    sa.or_(_state == BatchState.IN_PROGRESS, sa.and_(_state == BatchState.VALIDATING, sa.not_(batches.c.strict))),
)


def begins_lines(batch_id: sa.ColumnElement[Any]) -> sa.ColumnElement[bool]:
    """Tasks of this batch may be told to workers, and claimed by them; where it is none, or no batch's, they may.

    A scalar, looked up by the id: EXISTS may be answered by reading all the batches that ever were, once."""
    found = sa.select(_BEGINS_LINES).where(batches.c.id == batch_id).scalar_subquery()
    return sa.func.coalesce(found, sa.true())


def stays_local(batch_id: sa.ColumnElement[Any]) -> sa.ColumnElement[bool]:
    """Tasks of this batch run on one's own devices only: they are never bought elsewhere. A scalar, as above."""
    found = sa.select(batches.c.via == Via.LOCAL).where(batches.c.id == batch_id).scalar_subquery()
    return sa.func.coalesce(found, sa.false())


invalid_lines = sa.Table(
    "invalid_lines",
    metadata,
    sa.Column("batch_id", sa.Uuid, sa.ForeignKey("batches.id"), primary_key=True),
    sa.Column("line", sa.BigInteger, primary_key=True, comment="from 1, blank ones counted"),
    sa.Column("custom_id", sa.Text),
    required("code", sa.String(64)),
    required("message", sa.Text),
    sa.Column("field", sa.Text),
    comment="of a batch's input: they became no task",
)
