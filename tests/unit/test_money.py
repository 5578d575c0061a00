"""Money: exact, half-even, and printed without an exponent."""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tollgate.domain import money


@pytest.mark.parametrize(
    ("amount", "nano"),
    [
        ("1", 1_000_000_000),
        ("0.0123", 12_300_000),
        ("-1.5", -1_500_000_000),
        ("0.0000000005", 0),  # half to even: 0
        ("0.0000000015", 2),  # half to even: 2
        ("0.0000000025", 2),
        ("-0.0000000015", -2),
        ("0.00000000250000000000000000000000000001", 3),  # more than half, far behind the point
        ("123456789012345678901.000000001", 123_456_789_012_345_678_901_000_000_001),
        ("1e-999999", 0),
    ],
)
def test_amounts_are_rounded_half_even_to_nano_units(amount: str, nano: int) -> None:
    assert money.to_nano(Decimal(amount)) == nano


@pytest.mark.parametrize("amount", ["NaN", "sNaN", "Infinity", "-Infinity", "1e60", "1e999999"])
def test_what_is_no_amount_is_refused(amount: str) -> None:
    with pytest.raises(ValueError, match=r"amount of money|NaN"):
        money.to_nano(Decimal(amount))


@pytest.mark.parametrize(
    ("nano", "text"),
    [
        (0, "0"),
        (1, "0.000000001"),
        (12_300_000, "0.0123"),
        (-1_500_000_000, "-1.5"),
        (-1, "-0.000000001"),
        (10_000_000_000, "10"),
        (100_000_000_000_000_000_000, "100000000000"),
    ],
)
def test_money_is_printed_plainly(nano: int, text: str) -> None:
    assert money.format_nano(nano) == text


@given(st.integers(min_value=-(10**40), max_value=10**40))
def test_what_is_printed_reads_back_as_the_same_money(nano: int) -> None:
    text = money.format_nano(nano)
    assert money.to_nano(Decimal(text)) == nano
    assert "e" not in text.lower()
