"""What a setting of the simulator may be: small predicates, each with the phrase that an error shows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import isfinite

from tollgate.domain.errors import SettingsError


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """`accepts(value)`, and `allowed`: what to write instead ("a number from 0 to 1")."""

    accepts: Callable[[object], bool]
    allowed: str


def number(low: float, high: float) -> Check:
    """A finite int or float from low to high, both included; a bool is none."""

    def accepts(value: object) -> bool:
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        return is_number and isfinite(value) and low <= value <= high  # type: ignore[arg-type, operator]

    return Check(accepts=accepts, allowed=f"a number from {low:g} to {high:g}")


def whole(low: int, high: int) -> Check:
    """An int from low to high, both included; a bool is none."""

    def accepts(value: object) -> bool:
        return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high

    return Check(accepts=accepts, allowed=f"a whole number from {low} to {high}")


def one_of(*values: str) -> Check:
    """One of these strings."""
    return Check(accepts=lambda value: value in values, allowed="one of " + ", ".join(values))


def boolean() -> Check:
    """True or false."""
    return Check(accepts=lambda value: isinstance(value, bool), allowed="true or false")


def optional(check: Check) -> Check:
    """The same, or None (null)."""
    return Check(accepts=lambda value: value is None or check.accepts(value), allowed=f"{check.allowed}, or null")


def strings() -> Check:
    """A tuple of strings, none empty."""

    def accepts(value: object) -> bool:
        return isinstance(value, tuple) and all(isinstance(item, str) and item for item in value)

    return Check(accepts=accepts, allowed="a list of strings")


def strings_of(*values: str) -> Check:
    """A tuple of some of these strings."""

    def accepts(value: object) -> bool:
        return isinstance(value, tuple) and all(item in values for item in value)

    return Check(accepts=accepts, allowed="a list of " + ", ".join(values))


def codes_by_key(codes: frozenset[str]) -> Check:
    """A mapping from strings to one of these codes."""

    def accepts(value: object) -> bool:
        return isinstance(value, Mapping) and all(
            isinstance(key, str) and key and code in codes for key, code in value.items()
        )

    return Check(accepts=accepts, allowed=f"an object from key to one of the codes {', '.join(sorted(codes))}")


def check_fields(holder: object, *, checks: Mapping[str, Check], prefix: str = "") -> None:
    """Raises SettingsError naming the first field of `holder` that its check does not accept."""
    for name, check in checks.items():
        value = getattr(holder, name)
        if not check.accepts(value):
            shown = repr(value)[:80]
            raise SettingsError(f"simulator setting {prefix}{name}: {shown} is not {check.allowed}")
