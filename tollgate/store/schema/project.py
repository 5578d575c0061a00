"""Who may ask: projects, their API keys, and the labels that they use."""

from __future__ import annotations

import sqlalchemy as sa

from tollgate.domain.states import Role
from tollgate.store.schema.columns import Instant, metadata, one_of, required

projects = sa.Table(
    "projects",
    metadata,
    sa.Column("id", sa.Uuid, primary_key=True),
    required("name", sa.String(64), unique=True),
    required("created_at", Instant),
    sa.Column("keep_prompts_s", sa.BigInteger, comment="after a task's end; null: for ever"),
    sa.Column("keep_results_s", sa.BigInteger, comment="after a task's end; null: for ever"),
    sa.Column("prompts_erased_to", sa.Uuid, comment="a task: of it and of all before it"),
    sa.Column("results_erased_to", sa.Uuid, comment="a task: of it and of all before it"),
)

masters = sa.Table(
    "masters",
    metadata,
    sa.Column("fingerprint", sa.String(16), primary_key=True),
    required("created_at", Instant),
    comment="fingerprints of the master keys that ever made a key here; a stranger stops the start",
)

api_keys = sa.Table(
    "api_keys",
    metadata,
    sa.Column("id", sa.String(64), primary_key=True),
    required("project_id", sa.Uuid, sa.ForeignKey("projects.id")),
    required("name", sa.String(64)),
    required("role", sa.String(8)),
    required("master", sa.String(16), sa.ForeignKey("masters.fingerprint")),
    required("version", sa.Integer),
    sa.Column("models", sa.Text, comment="JSON list of the models it may use; null: all"),
    required("may_interactive", sa.Boolean, server_default=sa.true(), comment="its right to priority interactive"),
    sa.Column("requests_per_minute", sa.BigInteger, comment="null: not limited, as below"),
    sa.Column("tokens_per_minute", sa.BigInteger, comment="of interactive tasks; its tasks in flight are a budget's"),
    required("created_at", Instant),
    sa.Column("expires_at", Instant),
    sa.Column("revoked_at", Instant),
    one_of("role", Role),
    sa.Index("ix_api_keys_project_id", "project_id"),
    comment="no secret: it is derived from the master key, id and version",
)

labels = sa.Table(
    "labels",
    metadata,
    sa.Column("project_id", sa.Uuid, sa.ForeignKey("projects.id"), primary_key=True),
    sa.Column("label", sa.String(64), primary_key=True),
    comment="the labels in use: a dimension of the accounts, so their number a project is bounded",
)
