"""Money: an `int` of nano-units (1e-9) of the installation's one currency.

Integers add up without error, and fit a 64-bit column up to nine thousand million units.
Floats never hold money.
"""

from __future__ import annotations

from decimal import ROUND_HALF_EVEN, Context, Decimal, InvalidOperation

NANO = 1_000_000_000
"""Nano-units in one unit of the currency."""

_EXACT = Context(prec=60)
_NANO_STEP = Decimal(1).scaleb(-9)


def to_nano(amount: Decimal) -> int:
    """Nano-units of `amount` (units of the currency), rounded half-even.

    Raises ValueError for NaN, an infinity, or an amount of more than 50 digits.
    """
    try:
        rounded = amount.quantize(_NANO_STEP, rounding=ROUND_HALF_EVEN, context=_EXACT)
        return int(rounded.scaleb(9, context=_EXACT))
    except (InvalidOperation, OverflowError) as error:
        raise ValueError(f"{amount} is not an amount of money") from error


def format_nano(nano: int) -> str:
    """`nano` as a plain decimal string in units: "0.0123", "-1.5", "0"; never an exponent."""
    whole, fraction = divmod(abs(nano), NANO)
    sign = "-" if nano < 0 else ""
    return f"{sign}{whole}.{fraction:09d}".rstrip("0").rstrip(".")
