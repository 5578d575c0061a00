"""The lines of a batch's file, checked and admitted, in steps that are committed one after the other."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

import orjson

from gateway.batches import lines
from gateway.batches.lines import InvalidLineError, Kind, LineDefaults
from gateway.batches.reader import LineReader, Place, RawLine
from gateway.files.folder import FileStore
from tollgate.domain.admission import Limits, admit_line
from tollgate.domain.batches import Batch, Terms
from tollgate.domain.errors import FilesUnavailableError, RequestError
from tollgate.domain.routing import Catalog
from tollgate.domain.tasks import Key, NewTask
from tollgate.store.batch_intake import InvalidLine, Step

LINES_A_STEP = 1_000
LINES_A_TURN = 25
"""2 ms of work. The step before is committed meanwhile, in six ways there and back: each waits for a turn."""
BYTES_A_STEP = 4 * 1024 * 1024


@dataclass(slots=True)
class Pending:
    """Lines that were read and are not committed yet."""

    before: Place
    after: Place
    now: datetime
    size: int = 0
    tasks: list[NewTask] = field(default_factory=list)
    invalid: list[InvalidLine] = field(default_factory=list)

    @property
    def full(self) -> bool:
        return len(self.tasks) + len(self.invalid) >= LINES_A_STEP or self.size >= BYTES_A_STEP

    def step(self, *, last: bool) -> Step:
        return Step(
            lines=self.tasks,
            invalid=self.invalid,
            before_bytes=self.before.bytes,
            after_bytes=self.after.bytes,
            after_lines=self.after.lines,
            last=last,
        )


class Stepper:
    """What a line is checked by."""

    def __init__(
        self, store: FileStore, *, catalog: Catalog, limits: Limits, upstream_kind: Kind, max_line_bytes: int
    ) -> None:
        self._store = store
        self._catalog = catalog
        self._limits = limits
        self._upstream_kind = upstream_kind
        self._max_line_bytes = max_line_bytes

    async def steps(self, batch: Batch, key: Key) -> AsyncIterator[Step]:
        """From where the batch stands to the end of its file. Raises FilesUnavailableError."""
        at = Place(batch.taken_bytes, batch.taken_lines)
        reader = LineReader(max_line_bytes=self._max_line_bytes, at=at)
        defaults = defaults_of(batch)
        terms = Terms(batch_id=batch.id, priority=batch.priority, via=batch.via, expires_at=batch.expires_at)
        pending = Pending(before=at, after=at, now=datetime.now(UTC))
        async for told in self._lines(reader, batch):
            for raw in told:
                self._add(pending, raw, defaults=defaults, terms=terms, key=key)
                if pending.full:
                    yield pending.step(last=False)
                    pending = Pending(before=pending.after, after=pending.after, now=datetime.now(UTC))
        pending.after = reader.place
        yield pending.step(last=True)

    async def _lines(self, reader: LineReader, batch: Batch) -> AsyncIterator[Sequence[RawLine]]:
        """A few at a time, in turns with the loop's other work."""
        if batch.input_file_id is None:
            raise FilesUnavailableError("the batch has no input file")
        async for chunk in self._store.open_at(batch.input_file_id, reader.place.bytes):
            told = reader.feed(chunk)
            while some := list(itertools.islice(told, LINES_A_TURN)):
                yield some
                await asyncio.sleep(0)
        yield list(reader.finish())

    def _add(self, pending: Pending, raw: RawLine, *, defaults: LineDefaults, terms: Terms, key: Key) -> None:
        pending.after = raw.after
        pending.size += raw.end - raw.start
        try:
            pending.tasks.append(self._admit(raw, defaults=defaults, terms=terms, key=key, now=pending.now))
        except InvalidLineError as error:
            pending.invalid.append(
                InvalidLine(
                    line=raw.number,
                    code=error.code,
                    message=error.message,
                    custom_id=error.custom_id,
                    field=error.field,
                )
            )

    def _admit(self, raw: RawLine, *, defaults: LineDefaults, terms: Terms, key: Key, now: datetime) -> NewTask:
        if raw.raw is None:
            raise lines.too_long(self._max_line_bytes)
        asked = lines.parse(raw.raw, defaults=defaults, upstream_kind=self._upstream_kind)
        try:
            return admit_line(
                asked,
                line=raw.number,
                terms=terms,
                key=key,
                catalog=self._catalog,
                now=now,
                limits=self._limits,
            )
        except RequestError as error:
            raise lines.refused(error, custom_id=asked.custom_id) from None


def defaults_of(batch: Batch) -> LineDefaults:
    """What the batch says for its lines; `batches.defaults` holds all but the endpoint."""
    told = orjson.loads(batch.defaults) if batch.defaults else {}
    return LineDefaults(endpoint=batch.endpoint or None, **told)
