"""Reading a table of models.toml or prices.toml with errors a user can act on.

Every error is a SettingsError that names the file, the entry, the key, and what to write instead.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, NoReturn

from tollgate.domain.errors import SettingsError


def parse_toml(text: str, *, source: str) -> Table:
    """The root table of a TOML file; its numbers with a point are exact Decimals."""
    try:
        # tomllib.loads wants "\n" or "\r\n"; a byte order mark comes from some Windows editors.
        values = tomllib.loads(text.removeprefix("\ufeff"), parse_float=Decimal)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise SettingsError(f"{source}: not valid TOML: {error}") from error
    return Table(values=values, source=source)


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """A TOML table, with the file (`source`) and the entry (`where`) it stands in."""

    values: Mapping[str, Any]
    source: str
    where: str = ""

    def fail(self, problem: str) -> NoReturn:
        """Raise SettingsError for this table: file, entry, problem."""
        place = f"{self.source}: {self.where}" if self.where else self.source
        raise SettingsError(f"{place}: {problem}")

    def at(self, where: str) -> Table:
        """The same table under a better name, once its name is known."""
        return Table(values=self.values, source=self.source, where=where)

    def allow(self, keys: frozenset[str]) -> None:
        """Refuse keys that are not in `keys`: a misspelt key must not be ignored."""
        unknown = sorted(set(self.values) - keys)
        if unknown:
            self.fail(f"unknown key {unknown[0]!r}; write one of: {', '.join(sorted(keys))}")

    def has(self, key: str) -> bool:
        """Whether `key` is written here."""
        return key in self.values

    def tables(self, key: str) -> list[Table]:
        """The tables of an array; none if `key` is absent."""
        found = self.values.get(key, [])
        if not isinstance(found, list) or not all(isinstance(item, dict) for item in found):
            self.fail(f"{key} must be a list of tables")
        prefix = f"{self.where}, " if self.where else ""
        return [
            Table(values=item, source=self.source, where=f"{prefix}{key} {number}")
            for number, item in enumerate(found, start=1)
        ]

    def text(self, key: str) -> str:
        """A string that must be there and not be empty."""
        value = self.optional_text(key)
        if value is None:
            self.fail(f'{key} is missing; write {key} = "..."')
        return value

    def optional_text(self, key: str) -> str | None:
        """A string that is not empty, or None if absent."""
        value = self.values.get(key)
        if value is not None and (not isinstance(value, str) or not value.strip()):
            self.fail(f'{key} must be a text; write {key} = "..."')
        return value

    def choice(self, key: str, allowed: tuple[str, ...], *, default: str | None = None) -> str:
        """One of `allowed`; `default` if absent."""
        value = self.values.get(key, default)
        if value not in allowed:
            self.fail(f"{key} is {_shown(value)}; write one of: {', '.join(allowed)}")
        return str(value)

    def optional_count(self, key: str, *, least: int = 0, most: int | None = None) -> int | None:
        """A whole number of at least `least` and at most `most`, or None if absent."""
        value = self.values.get(key)
        if value is None:
            return None
        whole = isinstance(value, int) and not isinstance(value, bool)
        if not (whole and least <= value and (most is None or value <= most)):
            allowed = f", {least} or more" if most is None else f" from {least} to {most}"
            self.fail(f"{key} is {_shown(value)}; write a whole number{allowed}")
        return int(value)

    def count(self, key: str, *, default: int, least: int = 0, most: int | None = None) -> int:
        """The same; `default` if absent."""
        value = self.optional_count(key, least=least, most=most)
        return default if value is None else value

    def seconds(self, key: str, *, default: float) -> float:
        """A number of seconds above 0 and up to a day; `default` if absent."""
        value = self.values.get(key)
        if value is None:
            return default
        number = None if isinstance(value, str) else _decimal(value)
        if number is None or not number.is_finite() or not 0 < number <= 86_400:
            self.fail(f"{key} is {_shown(value)}; write a number of seconds, above 0 and up to 86400")
        return float(number)

    def decimal(self, key: str) -> Decimal:
        """An exact number of 0 or more, written as a number or as a string."""
        value = self.values.get(key)
        if value is None:
            self.fail(f'{key} is missing; write {key} = "1.5"')
        number = _decimal(value)
        if number is None or not number.is_finite() or number.is_signed():
            self.fail(f'{key} is {_shown(value)}; write a number of 0 or more, such as {key} = "1.5"')
        return number

    def texts(self, key: str) -> tuple[str, ...]:
        """A list of strings; empty if absent."""
        value = self.values.get(key, [])
        if not isinstance(value, list) or not all(isinstance(item, str) and item for item in value):
            self.fail(f'{key} must be a list of texts; write {key} = ["..."]')
        return tuple(value)


def _decimal(value: object) -> Decimal | None:
    if isinstance(value, bool) or not isinstance(value, int | str | Decimal):
        return None
    try:
        return Decimal(value)
    except ArithmeticError:
        return None


def _shown(value: object) -> str:
    """`value` as its user wrote it, near enough."""
    return str(value) if isinstance(value, Decimal) else repr(value)
