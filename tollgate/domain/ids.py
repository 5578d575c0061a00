"""Identifiers: UUIDv7 (RFC 9562), whose text sorts by the time it was made."""

from __future__ import annotations

import uuid

import uuid_utils.compat


def new_id() -> uuid.UUID:
    """A new UUIDv7. Within one process later ones sort after earlier ones."""
    return uuid_utils.compat.uuid7()


def parse_id(text: str) -> uuid.UUID | None:
    """The id in its usual form, 8-4-4-4-12 hex digits; None for anything else."""
    if len(text) != 36:
        return None
    try:
        return uuid.UUID(text)
    except ValueError:
        return None
