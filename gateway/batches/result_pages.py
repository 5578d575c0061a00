"""The lines of a batch in one of two orders, page after page, each read when the one before has been sent.

In the order of the input, a batch that still runs is told up to its first line that has not ended, so that whoever
goes on past the last line he has gets all of them, each once. As they ended, it is told what has ended by now. That is
no order of commits: the place after a line that ended within the last minute is a minute back, and whoever goes on
there may get lines again, never none. Lines that were refused come first there. Within one answer no line is repeated.
"""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from itertools import takewhile
from typing import NamedTuple, TypeAlias

from tollgate.domain.batches import Batch
from tollgate.domain.errors import InvalidRequestError
from tollgate.store import batch_intake, batch_results
from tollgate.store.batch_intake import InvalidLine
from tollgate.store.batch_results import FIRST, LAST, MANY, SOME, Line, Which
from tollgate.store.database import Database

LATE = timedelta(minutes=1)
"""What ended so long ago has been committed."""
_PLACE = re.compile(r"(\d{1,17})-(\d{1,17})-(\d{1,17})")
_MICROSECOND = timedelta(microseconds=1)

AnyLine: TypeAlias = Line | InvalidLine
Pages: TypeAlias = "AsyncGenerator[Page]"


class Page(NamedTuple):
    lines: Sequence[AnyLine]
    cursors: Sequence[str] = ()
    """The place after each; none in the order of the input, where the line's number is it."""


@dataclass(frozen=True, slots=True, order=True)
class Place:
    """In the order in which lines ended: past a line that ended then, and past one of those refused."""

    at: datetime = FIRST
    line: int = 0
    refused: int = 0

    @classmethod
    def parse(cls, text: str) -> Place:
        """Raises InvalidRequestError."""
        found = _PLACE.fullmatch(text)
        if found is None:
            raise InvalidRequestError(
                f"after: {text[:64]!r} is no cursor of this order", field="after",
                allowed="the cursor of the last line read, as it was told",
            )  # fmt: skip
        return cls(FIRST + int(found[1]) * _MICROSECOND, int(found[2]), int(found[3]))

    def __str__(self) -> str:
        return f"{(self.at - FIRST) // _MICROSECOND}-{self.line}-{self.refused}"


async def by_line(database: Database, batch: Batch, *, which: Which, after: int = 0, with_input: bool = False) -> Pages:
    """In the order of the input, past the line `after`."""
    refused = batch.invalid and which is not Which.SUCCEEDED
    until, rows = batch.taken_lines, SOME  # what was taken in when the batch was read is there as a whole
    while after < until:
        async with database.read() as connection:
            found = await batch_results.by_line(
                connection, batch.id, which=which, after=after, until=until, rows=rows, with_input=with_input,
                ended=batch.state.ended,
            )  # fmt: skip
            ended = list(takewhile(lambda one: one.state.ended, found))
            end = found[-1].line if found else until
            if len(ended) < len(found):
                end = until = found[len(ended)].line - 1
            invalid = await batch_intake.invalid_page(
                connection, batch.id, after=after, until=end, limit=MANY
            ) if refused else []  # fmt: skip
        if len(invalid) == MANY:
            end = invalid[-1].line
        lines = _merged(ended, invalid, end) if invalid else ended
        if lines:
            yield Page(lines)
        after, rows = end, MANY if len(found) >= SOME else SOME


def _merged(ended: Sequence[Line], invalid: Sequence[InvalidLine], end: int) -> list[AnyLine]:
    both: list[AnyLine] = [*ended, *invalid]
    return sorted((one for one in both if one.line <= end), key=lambda one: one.line)


async def by_end(
    database: Database, batch: Batch, *, which: Which, place: Place, now: datetime, with_input: bool = False
) -> Pages:
    """As they ended, past `place`. Of a batch that still runs, up to `now`."""
    if batch.invalid and which is not Which.SUCCEEDED:
        async for page in _refused(database, batch, place):
            yield page
        place = replace(place, refused=batch.taken_lines)
    until = LAST if batch.state.ended else now
    safe = max(place, replace(place, at=until - LATE, line=0))
    rows = SOME
    while True:
        async with database.read() as connection:
            found = await batch_results.by_end(
                connection, batch.id, which=which, after=(place.at, place.line), until=until, rows=rows,
                with_input=with_input,
            )  # fmt: skip
        if not found:
            return
        places = [replace(place, at=one.ended_at or LAST, line=one.line) for one in found]
        yield Page(found, [str(min(one, safe)) for one in places])
        place, rows = places[-1], MANY if len(found) >= SOME else SOME


async def _refused(database: Database, batch: Batch, place: Place) -> Pages:
    after = place.refused
    while after < batch.taken_lines:
        async with database.read() as connection:
            found = await batch_intake.invalid_page(
                connection, batch.id, after=after, until=batch.taken_lines, limit=MANY
            )
        if not found:
            return
        yield Page(found, [str(replace(place, refused=one.line)) for one in found])
        after = found[-1].line


async def limited(pages: Pages, limit: int) -> Pages:
    """The first `limit` lines."""
    async for page in pages:
        yield Page(page.lines[:limit], page.cursors[:limit])
        limit -= len(page.lines)
        if limit <= 0:
            return
