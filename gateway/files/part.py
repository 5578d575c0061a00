"""A file that is being written: under a name of its own until it is whole and on the disk. Blocks: for threads."""

from __future__ import annotations

import contextlib
import os
import threading
from pathlib import Path
from typing import BinaryIO

from gateway.files.tally import Tally, Written

SUFFIX = ".part"


class Part:
    """Each call has a turn: `abandon` comes in beside an `add` whose caller was cancelled, and must not close the
    descriptor under it."""

    def __init__(self, path: Path, file: BinaryIO) -> None:
        self._path = path
        self._file = file
        self._tally = Tally()
        self._turn = threading.Lock()

    @classmethod
    def begin(cls, path: Path) -> Part:
        """Of the file that `path` shall be. Raises OSError, as all of this does."""
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(_begun(path), os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        return cls(path, os.fdopen(descriptor, "wb"))

    def add(self, piece: bytes) -> None:
        with self._turn:
            self._file.write(piece)
            self._tally.add(piece)

    def finish(self) -> Written:
        """From now on it is there, whatever dies."""
        with self._turn:
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
            _begun(self._path).rename(self._path)
            _sync_folder(self._path.parent)
            return self._tally.written()

    def abandon(self) -> None:
        """As if it had never begun."""
        with self._turn, contextlib.suppress(OSError):
            with contextlib.suppress(OSError):  # what is still to be flushed does not fit either
                self._file.close()
            _begun(self._path).unlink(missing_ok=True)
            self._path.unlink(missing_ok=True)


def _begun(path: Path) -> Path:
    return path.with_name(path.name + SUFFIX)


def _sync_folder(path: Path) -> None:
    """The new name itself: fsync of a file does not cover it (fsync(2))."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
