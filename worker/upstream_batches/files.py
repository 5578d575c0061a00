"""The files that go to an upstream and come back, on this machine's disk for as long as they are needed."""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from uuid import UUID

from tollgate.domain.upstream_batch_answers import LineAnswer, read_line
from tollgate.domain.upstream_batches import input_line
from tollgate.store import upstream_lines
from tollgate.store.database import Database

AT_ONCE = 1_000
"""Lines that are settled together."""


@contextlib.contextmanager
def folder() -> Iterator[Path]:
    """One that goes with its block."""
    with tempfile.TemporaryDirectory(prefix="tollgate-batch-") as name:
        yield Path(name)


async def write_input(database: Database, upstream_batch_id: UUID, path: Path, *, model: str) -> int:
    """The lines that are still wanted; returns how many. Raises StoreUnavailableError."""
    written = after = 0
    with path.open("wb") as file:
        while True:
            async with database.read() as connection:
                found = await upstream_lines.to_send(connection, upstream_batch_id, after=after)
            if not found:
                return written
            for line in found:
                file.write(input_line(line.custom_id, line.body, model=model))
            written, after = written + len(found), found[-1].line
            await asyncio.sleep(0)


def answers(path: Path) -> Iterator[list[LineAnswer | None]]:
    """What the lines of a file say, some at a time; None for one that cannot be told whose it is."""
    with path.open("rb") as file:
        lines = (line.strip() for line in file)
        told = (read_line(line) for line in lines if line)
        while some := list(islice(told, AT_ONCE)):
            yield some
