"""Identifiers: UUIDv7 (RFC 9562), whose text sorts by the time it was made."""

from __future__ import annotations

import re
import uuid
from datetime import datetime

import uuid_utils.compat

_USUAL = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")


def new_id() -> uuid.UUID:
    """A new UUIDv7. Within one process later ones sort after earlier ones."""
    return uuid_utils.compat.uuid7()


def first_of(moment: datetime) -> uuid.UUID:
    """Sorts before each id that was made at `moment` (aware) or later, and after each that was made earlier."""
    milliseconds = int(moment.timestamp() * 1000)
    return uuid.UUID(int=milliseconds << 80)


def parse_id(text: str) -> uuid.UUID | None:
    """The id in its usual form, 8-4-4-4-12 hex digits; None for anything else."""
    # uuid.UUID itself takes hyphens anywhere, blanks, braces, and digits of other scripts.
    return uuid.UUID(text) if _USUAL.fullmatch(text) else None
