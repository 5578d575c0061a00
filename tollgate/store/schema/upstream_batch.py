"""What is bought by an upstream's own batches."""

from __future__ import annotations

import sqlalchemy as sa

from tollgate.domain.upstream_batches import UpstreamBatchState
from tollgate.store.schema.columns import Instant, count, metadata, one_of, partial, required

_GATHERING = sa.text("state = 'gathering'")
_UNENDED = sa.text("ended_at IS NULL")

upstream_batches = sa.Table(
    "upstream_batches",
    metadata,
    sa.Column("id", sa.Uuid, primary_key=True, comment="also the mark by which it is found in the upstream's list"),
    required("batch_id", sa.Uuid, sa.ForeignKey("batches.id")),
    required("upstream", sa.String(128)),
    required("upstream_model", sa.String(128)),
    required("credential", sa.String(128), comment="the variable of the key whose account it belongs to"),
    required("state", sa.String(16)),
    sa.Column("worker_id", sa.Uuid, comment="who looks after it; a dead one is followed by another"),
    count("lines"),
    count("bytes"),
    sa.Column("file_id", sa.Text, comment="the upstream's, as the ids below"),
    sa.Column("upstream_id", sa.Text),
    sa.Column("output_file_id", sa.Text),
    sa.Column("error_file_id", sa.Text),
    count("succeeded"),
    required("failures", sa.Integer, server_default=sa.text("0"), comment="of calls, since one went well"),
    sa.Column("error", sa.Text, comment="the last one's, or why it ended without answers"),
    required("created_at", Instant),
    sa.Column("asked_at", Instant, comment="it may be there since then"),
    sa.Column("running_at", Instant, comment="its id was known"),
    sa.Column("ended_at", Instant),
    required("next_at", Instant, comment="it is looked at again"),
    one_of("state", UpstreamBatchState),
    sa.CheckConstraint("(state = 'ended') = (ended_at IS NOT NULL)", name="ended_has_time"),
    sa.Index("ix_upstream_batches_batch_id", "batch_id"),
    partial("ix_upstream_batches_next_at", "next_at", where=_UNENDED),
    partial("uq_upstream_batches_gathering", "batch_id", "upstream", "upstream_model", unique=True, where=_GATHERING),
    comment="what is bought by the upstream's own batches; succeeded: as it tells, and counted at its end",
)
