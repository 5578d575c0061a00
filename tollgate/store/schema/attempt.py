"""Purchases at upstreams, and their bills."""

from __future__ import annotations

import sqlalchemy as sa

from tollgate.domain.states import AttemptOutcome
from tollgate.store.schema.columns import Instant, metadata, one_of, required

attempts = sa.Table(
    "attempts",
    metadata,
    sa.Column("task_id", sa.Uuid, sa.ForeignKey("tasks.id"), primary_key=True),
    sa.Column("number", sa.Integer, primary_key=True, comment="counts purchases"),
    required("fence", sa.Integer, comment="the lease that last held it"),
    required("worker_id", sa.Uuid),
    required("upstream", sa.String(128)),
    required("upstream_model", sa.String(128)),
    required("mode", sa.String(8), server_default="direct"),
    required("request_id", sa.String(64), comment="ours, sent upstream"),
    sa.Column("upstream_id", sa.Text, comment="the upstream's id of a call that is polled"),
    sa.Column("credential", sa.String(128), comment="the variable of the key that upstream_id belongs to"),
    required(
        "unanswered",
        sa.Integer,
        server_default=sa.text("0"),
        comment="sends whose answer never came: the upstream may know the request_id",
    ),
    required("outcome", sa.String(16)),
    required("tries", sa.Integer, comment="how often it was sent"),
    sa.Column("http_status", sa.Integer),
    sa.Column("error_code", sa.String(64)),
    sa.Column("error_message", sa.Text),
    sa.Column("prompt_tokens", sa.Integer),
    sa.Column("cached_tokens", sa.Integer),
    sa.Column("completion_tokens", sa.Integer),
    sa.Column("engine_us", sa.BigInteger, comment="share of a local engine's time; null: not known, or none"),
    sa.Column("price_id", sa.String(256), sa.ForeignKey("prices.id"), comment="price version; null: unpriced"),
    sa.Column("price_tier", sa.String(64)),
    sa.Column("cost_nano", sa.BigInteger, comment="null: nothing was billed, or there is no price"),
    required("cost_estimated", sa.Boolean, server_default=sa.false()),
    sa.Column("possible_cost_nano", sa.BigInteger, comment="of an uncertain attempt, and of one that is polled"),
    sa.Column("possible_tokens", sa.BigInteger, comment="the same in tokens"),
    required("started_at", Instant, comment="its hour is where the roll-up books it"),
    sa.Column("ended_at", Instant),
    one_of("outcome", AttemptOutcome),
    one_of("mode", ("direct", "async", "batch", "local")),
    sa.CheckConstraint("(outcome = 'open') = (ended_at IS NULL)", name="ended_has_time"),
)
