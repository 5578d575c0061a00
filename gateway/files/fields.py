"""What is said of a file beside its content: what it is for, and for how long."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta

from tollgate.domain.errors import InvalidRequestError

BATCH = "batch"
ANCHOR, SECONDS = "expires_after[anchor]", "expires_after[seconds]"
MIN_LIFETIME_S, MAX_LIFETIME_S = 3_600, 2_592_000
"""OpenAI's limits of `expires_after`: an hour and 30 days."""


def require_purpose(given: str | None) -> None:
    """Raises InvalidRequestError for a file that is for anything but a batch."""
    if given is None:
        raise InvalidRequestError("purpose: it is missing", field="purpose", allowed=repr(BATCH), code="1213")
    if given != BATCH:
        raise InvalidRequestError(f"purpose: {given!r} is not served here", field="purpose", allowed=repr(BATCH))


def lifetime(fields: Mapping[str, str]) -> timedelta | None:
    """Of `expires_after`; None: it is not there. Raises InvalidRequestError."""
    anchor, seconds = fields.get(ANCHOR, "created_at"), fields.get(SECONDS)
    if anchor != "created_at":
        raise InvalidRequestError(f"{ANCHOR}: {anchor!r}", field=ANCHOR, allowed="'created_at'")
    if seconds is None:
        if ANCHOR in fields:
            raise InvalidRequestError(f"{SECONDS}: it is missing", field=SECONDS, allowed=_RULE, code="1213")
        return None
    if not (seconds.isascii() and seconds.isdecimal() and MIN_LIFETIME_S <= int(seconds[:9]) <= MAX_LIFETIME_S):
        raise InvalidRequestError(f"{SECONDS}: {seconds!r}", field=SECONDS, allowed=_RULE)
    return timedelta(seconds=int(seconds))


_RULE = f"an integer from {MIN_LIFETIME_S} to {MAX_LIFETIME_S}"
