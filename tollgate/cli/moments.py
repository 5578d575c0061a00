"""Times and durations as people type them. Pure; a time without a zone is UTC."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
_DURATION = re.compile(r"(\d{1,6})([smhdw])")


def parse_time(text: str) -> datetime:
    """A date (its first moment) or an ISO 8601 time, as aware UTC. Raises ValueError with what to write."""
    try:
        parsed = datetime.fromisoformat(text.strip())
    except ValueError:
        raise ValueError(f"{text!r} is no time; write 2026-01-31, or 2026-01-31T15:00:00Z") from None
    return (parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)).astimezone(UTC)


def parse_duration(text: str) -> timedelta | None:
    """ "90s", "15m", "12h", "30d", "2w"; None for what is no duration."""
    match = _DURATION.fullmatch(text.strip())
    return timedelta(seconds=int(match[1]) * _UNITS[match[2]]) if match else None


def parse_expiry(text: str, *, now: datetime) -> datetime:
    """A duration from `now`, or a time; it must lie ahead. Raises ValueError with what to write."""
    try:
        duration = parse_duration(text)
        expiry = now + duration if duration is not None else parse_time(text)
    except OverflowError:
        raise ValueError(f"{text!r} is further ahead than a calendar goes") from None
    except ValueError:
        raise ValueError(f"{text!r} is no expiry; write 30d, 12h, or a date such as 2026-12-31") from None
    if expiry <= now:
        raise ValueError(f"{text!r} is over already; write a later time, or 30d")
    return expiry
