"""Every price version ever published."""

from __future__ import annotations

import sqlalchemy as sa

from tollgate.store.schema.columns import Instant, metadata, required

prices = sa.Table(
    "prices",
    metadata,
    sa.Column("id", sa.String(256), primary_key=True, comment="upstream/model@valid-from#digest"),
    required("upstream", sa.String(128)),
    required("model", sa.String(128)),
    required("valid_from", Instant),
    required("content", sa.Text, comment="JSON: tiers, currency; never changed once written"),
    required("published_at", Instant, comment="of two with one valid-from the later published counts"),
)
