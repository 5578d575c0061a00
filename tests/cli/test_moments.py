from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from tollgate.cli import moments

NOW = datetime(2026, 1, 31, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "duration"),
    [
        ("90s", timedelta(seconds=90)),
        ("15m", timedelta(minutes=15)),
        ("12h", timedelta(hours=12)),
        ("30d", timedelta(days=30)),
        ("2w", timedelta(weeks=2)),
        ("30", None),
        ("d", None),
        ("-1d", None),
        ("2026-12-31", None),
    ],
)
def test_durations_are_a_number_and_a_unit(text: str, duration: timedelta | None) -> None:
    assert moments.parse_duration(text) == duration


@pytest.mark.parametrize(
    ("text", "expiry"),
    [
        ("30d", NOW + timedelta(days=30)),
        ("2026-12-31", datetime(2026, 12, 31, tzinfo=UTC)),
        ("2026-12-31T08:00:00+08:00", datetime(2026, 12, 31, tzinfo=UTC)),
    ],
)
def test_an_expiry_is_a_duration_or_a_time(text: str, expiry: datetime) -> None:
    assert moments.parse_expiry(text, now=NOW) == expiry


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("soon", "write 30d, 12h, or a date"),
        ("2026-01-31", "over already"),
        ("0d", "over already"),
        ("999999w", "further ahead than a calendar goes"),
    ],
)
def test_what_is_no_expiry_says_what_to_write(text: str, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        moments.parse_expiry(text, now=NOW)
