"""A provider's bill, a CSV file with one charge a line: from its lines to values. Pure.

Columns are found by their names in the first line, in any order, others among them. A line that cannot be read
becomes a BadLine with its number: one odd line must not hide what the others say.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

from tollgate.domain.money import to_nano

NEEDED = ("request_id", "cost")
TOKENS = ("prompt_tokens", "cached_tokens", "completion_tokens")
COST_MAX_NANO = 10**15
"""A million units. What is more for one call is a misread number, and the sum of all must fit 64 bits."""
TOKENS_MAX = 10**7
REQUEST_ID_MAX = 256
_COST = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d{1,3})?", re.ASCII)
_COUNT = re.compile(r"\d{1,8}", re.ASCII)
_SECONDS = re.compile(r"\d{1,11}(\.\d*)?", re.ASCII)
_OURS = re.compile(r"([0-9a-f]{32})-([1-9]\d{0,8})", re.ASCII)

Columns = Mapping[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Charge:
    """What one line charges. `cost_nano` is in nano-units of the installation's currency; below 0: a credit."""

    request_id: str
    cost_nano: int
    prompt_tokens: int | None = None
    cached_tokens: int | None = None
    completion_tokens: int | None = None
    created: datetime | None = None
    """When it was charged, if the bill says so in unix seconds or ISO 8601."""

    @property
    def attempt(self) -> tuple[UUID, int] | None:
        """Task and number of the attempt that was sent with this request_id; None for a request_id not of our form."""
        match = _OURS.fullmatch(self.request_id)
        return None if match is None else (UUID(match[1]), int(match[2]))


@dataclass(frozen=True, slots=True, kw_only=True)
class BadLine:
    """A line that is no charge. `number` counts the file's lines from 1."""

    number: int
    reason: str


def read(lines: Iterable[str], *, name: str) -> Iterator[Charge | BadLine]:
    """The lines' charges, as they are asked for. `lines` keep their ends (`newline=""`).

    Raises ValueError, naming `name` and the columns found, where the first line has not the columns needed.
    """
    # Strict: else a quote that is never closed would swallow the lines after it without a word.
    reader = csv.reader(_without_mark(lines), strict=True)
    try:
        heading = next(reader, [])
    except csv.Error as error:
        raise ValueError(f"{name}: the first line is no CSV: {error}") from None
    return _charges(reader, _columns(heading, name=name))


def _without_mark(lines: Iterable[str]) -> Iterator[str]:
    """Excel's CSV begins with a byte order mark."""
    for number, line in enumerate(lines):
        yield line.removeprefix("\ufeff") if number == 0 else line


def _columns(heading: Sequence[str], *, name: str) -> Columns:
    names = [cell.strip().lower() for cell in heading]
    missing = [one for one in NEEDED if one not in names]
    if missing:
        found = ", ".join(one for one in names if one) or "none"
        raise ValueError(f"{name}: the first line must name the column {' and '.join(missing)}; it names: {found}")
    known = (*NEEDED, *TOKENS, "created")
    twice = [one for one in known if names.count(one) > 1]
    if twice:
        raise ValueError(f"{name}: the column {twice[0]} is there {names.count(twice[0])} times")
    return {one: names.index(one) for one in known if one in names}


def _charges(reader: Any, columns: Columns) -> Iterator[Charge | BadLine]:
    while True:
        number = reader.line_num + 1
        try:
            cells = next(reader)
            if any(cell.strip() for cell in cells):
                yield _charge(cells, columns)
        except StopIteration:
            return
        except (csv.Error, ValueError) as error:
            through = f" (lines {number} to {reader.line_num})" if reader.line_num > number else ""
            yield BadLine(number=number, reason=f"{error}{through}")


def _charge(cells: Sequence[str], columns: Columns) -> Charge:
    """Raises ValueError with what is wrong."""
    texts = {name: cells[i].strip() if i < len(cells) else "" for name, i in columns.items()}
    return Charge(
        request_id=_request_id(texts["request_id"]),
        cost_nano=_cost(texts["cost"]),
        created=_moment(texts.get("created", "")),
        **{name: _count(texts.get(name, ""), name=name) for name in TOKENS},
    )


def _request_id(text: str) -> str:
    if not text:
        raise ValueError("request_id is empty")
    if len(text) > REQUEST_ID_MAX or not text.isprintable():
        raise ValueError(f"request_id: 1 to {REQUEST_ID_MAX} characters, no control characters")
    return text


def _cost(text: str) -> int:
    if not _COST.fullmatch(text):
        raise ValueError(f"cost {text[:40]!r} is no decimal number")
    nano = to_nano(Decimal(text))
    if abs(nano) > COST_MAX_NANO:
        raise ValueError(f"cost {text[:40]!r} is too much for one call")
    return nano


def _count(text: str, *, name: str) -> int | None:
    if not text:
        return None
    if not _COUNT.fullmatch(text) or int(text) > TOKENS_MAX:
        raise ValueError(f"{name} {text[:40]!r} is no number from 0 to {TOKENS_MAX}")
    return int(text)


def _moment(text: str) -> datetime | None:
    """None for whatever else a provider writes there: the column is not needed."""
    try:
        if _SECONDS.fullmatch(text):
            return datetime.fromtimestamp(float(text), tz=UTC)
        parsed = datetime.fromisoformat(text)
    except (ValueError, OverflowError, OSError):
        return None
    return (parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)).astimezone(UTC)
