"""The folder that is written: under a name that shows it is unfinished, until all of it is there."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from worker.upstreams.local.chatglm.errors import DestinationError

LOCK = ".converting"
"""Held while a conversion writes; left by one that was killed."""
SPARE_BYTES = 100_000_000
"""Beside the weights: the tokenizer, and room for others."""


@contextlib.contextmanager
def partial(folder: Path) -> Iterator[Path]:
    """`folder` with ".partial" at its end, renamed to `folder` if the block ends well, removed otherwise.

    Raises DestinationError where `folder` is not to be written, or another conversion writes it."""
    _refuse_taken(folder)
    written = folder.with_name(folder.name + ".partial")
    lock = _taken(written)
    try:
        yield written
        (written / LOCK).unlink()
        _replace(written, folder)
    except BaseException:
        shutil.rmtree(written, ignore_errors=True)
        raise
    finally:
        lock.close()


def require_room(folder: Path, *, size: int) -> None:
    """Raises DestinationError where the disk of `folder` has no `size` bytes left."""
    free = shutil.disk_usage(folder).free
    if free < size + SPARE_BYTES:
        raise DestinationError(
            f"{folder.parent} has {free / 1e9:.1f} GB free, and the converted model needs "
            f"{(size + SPARE_BYTES) / 1e9:.1f} GB: make room, or name another folder"
        )


@contextlib.contextmanager
def written_to(folder: Path) -> Iterator[None]:
    """Errors of the system while `folder` is written, as DestinationError."""
    try:
        yield
    except OSError as error:
        raise DestinationError(f"{folder.parent} cannot be written: {error.strerror or error}") from error


def _refuse_taken(folder: Path) -> None:
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        raise DestinationError(f"{folder} is no folder: name one that is not there yet")
    if folder.is_dir() and any(folder.iterdir()):
        raise DestinationError(f"{folder} is not empty: name a folder that is not there yet")


def _taken(written: Path) -> IO[str]:
    """The lock of the unfinished folder, which is empty then."""
    with written_to(written):
        if written.is_dir() and any(written.iterdir()) and not (written / LOCK).exists():
            raise DestinationError(f"{written} is there already, and no conversion's: move it away")
        written.mkdir(parents=True, exist_ok=True)
        lock = (written / LOCK).open("w")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.close()
            raise DestinationError(f"another conversion is writing {written}") from None
        for left in written.iterdir():
            if left.name != LOCK:
                shutil.rmtree(left) if left.is_dir() else left.unlink()
        return lock


def _replace(written: Path, folder: Path) -> None:
    with written_to(folder):
        written.rename(folder)  # over an empty folder too
        descriptor = os.open(folder.parent, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
