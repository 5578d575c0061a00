"""Times as clients write them. Within bounds, so that any of them can be moved to another zone, and added to."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

import pydantic

EARLIEST = datetime(1970, 1, 1, tzinfo=UTC)
LATEST = datetime(9000, 1, 1, tzinfo=UTC)

BODY_RULE = "a time: ISO 8601 with its zone, or Unix seconds"
Moment = Annotated[pydantic.AwareDatetime, pydantic.Field(strict=False, ge=EARLIEST, lt=LATEST)]
"""In a body."""


def _zoned(at: datetime) -> datetime:
    zoned = at if at.tzinfo else at.replace(tzinfo=UTC)
    if not EARLIEST <= zoned < LATEST:
        raise ValueError(f"is not from {EARLIEST.year} to {LATEST.year - 1}")
    return zoned.astimezone(UTC)


QUERY_RULE = "2026-01-31, or 2026-01-31T15:00:00Z"
QueryTime = Annotated[datetime, pydantic.AfterValidator(_zoned)]
"""In a query: a date is its first moment, and without a zone it is UTC."""
