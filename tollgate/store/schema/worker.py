"""Who runs tasks, and what an upstream refuses for now."""

from __future__ import annotations

import sqlalchemy as sa

from tollgate.store.schema.columns import Instant, metadata, partial, required

workers = sa.Table(
    "workers",
    metadata,
    sa.Column("id", sa.Uuid, primary_key=True),
    required("name", sa.Text, comment="host and process, for people"),
    required("lanes", sa.Text, comment="comma-separated"),
    required("load", sa.Text, comment="JSON: route -> [settled in the last 10 s, free slots]"),
    required("heartbeat", sa.BigInteger, comment="counts beats; watchers compare values, never clocks"),
    required("dead", sa.Boolean, server_default=sa.false()),
    required("started_at", Instant),
    required("seen_at", Instant, comment="of the last heartbeat, for people"),
    partial("ix_workers_alive", "id", where="NOT dead"),
)

pauses = sa.Table(
    "pauses",
    metadata,
    sa.Column("upstream", sa.String(128), primary_key=True),
    sa.Column("credential", sa.String(128), primary_key=True, comment="the variable that holds the key"),
    required("reason", sa.Text),
    required("since", Instant),
    required("until", Instant, comment="one probe task then lifts it, or pauses on"),
)
