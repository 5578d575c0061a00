"""Where the bytes of files are: a small interface, and the folder that implements it.

Whatever fails on the disk is a FilesUnavailableError, and StorageFullError where it is full. The folder belongs to one
installation, whose gateways share it. Only what is named as its files are is ever touched.
"""

from __future__ import annotations

import asyncio
import errno
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import ParamSpec, Protocol, TypeVar
from uuid import UUID

from gateway.files.part import SUFFIX, Part
from gateway.files.tally import Written
from tollgate.domain.errors import FilesUnavailableError, StorageFullError
from tollgate.domain.ids import parse_id

PIECE_BYTES = 1024 * 1024
"""So much goes to a thread at once, to be written and counted (4 ms), and comes back when it is read."""
P = ParamSpec("P")
T = TypeVar("T")
FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


class FileStore(Protocol):
    """Keeps files by their ids. Safe to use by any number of processes at once."""

    async def write(self, file_id: UUID, stream: AsyncIterator[bytes]) -> Written:
        """Keep what `stream` yields, to the last byte and durably, or nothing: also where `stream` itself raises."""

    def open_at(self, file_id: UUID, offset: int = 0) -> AsyncIterator[bytes]:
        """Its bytes from `offset` on, in pieces. Raises FilesUnavailableError where it is not there (any more)."""

    async def exists(self, file_id: UUID) -> bool: ...

    async def delete(self, file_id: UUID) -> None:
        """Nothing where it is not there."""

    async def older_than(self, age_s: float) -> list[UUID]:
        """Those that were written longer ago."""

    async def remove_unfinished(self, age_s: float) -> None:
        """Forget what was begun by somebody who died: nothing was added to it for so long."""


class Folder:
    """A directory with a file for each, named by its id. Made, for its owner only, when the first is written."""

    def __init__(self, path: Path) -> None:
        self.path = path

    async def write(self, file_id: UUID, stream: AsyncIterator[bytes]) -> Written:
        part = await _on_disk(Part.begin, self._path(file_id))
        try:
            async for piece in _pieces(stream):
                await _on_disk(part.add, piece)
            return await _on_disk(part.finish)
        except BaseException:
            # In a thread, even where this is cancelled: another may be writing to it at this moment.
            await asyncio.to_thread(part.abandon)
            raise

    async def open_at(self, file_id: UUID, offset: int = 0) -> AsyncIterator[bytes]:
        """Opened anew for each piece: a reader that never comes back holds nothing."""
        while piece := await _on_disk(_read, self._path(file_id), offset):
            yield piece
            offset += len(piece)

    async def exists(self, file_id: UUID) -> bool:
        return await _on_disk(self._path(file_id).exists)

    async def delete(self, file_id: UUID) -> None:
        await _on_disk(_unlink, self._path(file_id))

    async def older_than(self, age_s: float) -> list[UUID]:
        paths = await _on_disk(self._untouched, "", age_s)
        return [file_id for path in paths if (file_id := parse_id(path.name)) is not None]

    async def remove_unfinished(self, age_s: float) -> None:
        for path in await _on_disk(self._untouched, SUFFIX, age_s):
            if parse_id(path.stem) is not None:
                await _on_disk(_unlink, path)

    def _path(self, file_id: UUID) -> Path:
        return self.path / str(file_id)

    def _untouched(self, suffix: str, age_s: float) -> list[Path]:
        if not self.path.exists():
            return []
        before = time.time() - age_s
        return [path for path in self.path.iterdir() if path.suffix == suffix and _changed(path) < before]


async def _pieces(stream: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The same bytes in PIECE_BYTES or a little more, however small they come."""
    held: list[bytes] = []
    size = 0
    async for chunk in stream:
        held.append(chunk)
        size += len(chunk)
        if size >= PIECE_BYTES:
            yield b"".join(held)
            held, size = [], 0
    if size:
        yield b"".join(held)


async def _on_disk(work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """In a thread. Raises FilesUnavailableError."""
    try:
        return await asyncio.to_thread(work, *args, **kwargs)
    except OSError as error:
        kind = StorageFullError if error.errno in FULL else FilesUnavailableError
        # Not the path: whoever reads this may be a client.
        raise kind(f"the folder of files: {error.strerror or type(error).__name__}") from error


def _read(path: Path, offset: int) -> bytes:
    with path.open("rb", buffering=0) as file:
        file.seek(offset)
        return file.read(PIECE_BYTES)


def _unlink(path: Path) -> None:
    path.unlink(missing_ok=True)


def _changed(path: Path) -> float:
    """In Unix seconds. Never of one that another gateway has just removed."""
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return float("inf")
