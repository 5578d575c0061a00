"""What was uploaded; the bytes are in the folder of files."""

from __future__ import annotations

import sqlalchemy as sa

from tollgate.store.schema.columns import OF_BATCH, Instant, metadata, one_of, partial, required

FILE_PURPOSES = ("batch", "batch_output")
_EXPIRES = sa.text("expires_at IS NOT NULL")

files = sa.Table(
    "files",
    metadata,
    sa.Column("id", sa.Uuid, primary_key=True, comment="also its name in the folder of files"),
    required("project_id", sa.Uuid, sa.ForeignKey("projects.id")),
    sa.Column("key_id", sa.String(64), sa.ForeignKey("api_keys.id"), comment="who brought it; null: a batch made it"),
    required("filename", sa.Text),
    required("purpose", sa.String(32)),
    required("bytes", sa.BigInteger),
    sa.Column("lines", sa.BigInteger, comment="that are not blank"),
    sa.Column("sha256", sa.String(64), comment="null: a view of a batch's results, which nobody uploaded"),
    sa.Column("batch_id", sa.Uuid, comment="of such a view"),
    required("created_at", Instant),
    sa.Column("expires_at", Instant, comment="null: never"),
    one_of("purpose", FILE_PURPOSES),
    sa.CheckConstraint("(sha256 IS NULL) = (batch_id IS NOT NULL)", name="uploaded_or_view"),
    sa.Index("ix_files_project_id_id", "project_id", "id"),
    partial("ix_files_batch_id", "batch_id", where=OF_BATCH),
    partial("ix_files_expires_at", "expires_at", where=_EXPIRES),
)
