"""The file of `--out`, opened before anything is bought: what cannot be kept is not paid for.

In the input's order it is written beside its place once the batch has ended, and put there when it is whole; as lines
finish it is appended to (`following`)."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Protocol

from tollgate.cli import progress
from tollgate.cli.batches import fetching, following
from tollgate.cli.batches.following import Followed, Written
from tollgate.cli.client import Gateway, Json
from tollgate.cli.exits import BadFileError


class Out(Protocol):
    """Where the results of a batch go."""

    def follow(self, batch: Json) -> None:
        """With each progress of the batch."""

    def finish(self, batch: Json) -> None:
        """Write what is missing, once it has ended."""


class Part:
    """A file that is written beside its place, and put there when it is whole."""

    def __init__(self, path: Path, *, force: bool) -> None:
        """Raises BadFileError for a file that cannot be written, or is there already and not to be replaced."""
        require_free(path, force=force)
        self.path = path
        self._part = path.with_name(f"{path.name}.part")
        self._file = open_to_write(self._part, "wb")
        self._kept = False

    def write(self, octets: bytes) -> None:
        self._file.write(octets)

    def keep(self) -> None:
        """It is whole."""
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        self._part.replace(self.path)
        self._kept = True

    def __enter__(self) -> Part:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        if not self._kept:
            self._part.unlink(missing_ok=True)


class Whole:
    """In the input's order, once the batch has ended."""

    def __init__(self, gateway: Gateway, part: Part) -> None:
        self._gateway = gateway
        self._part = part

    def follow(self, batch: Json) -> None:
        pass

    def finish(self, batch: Json) -> None:
        asked = {"format": format_of(self._part.path), "order": "input"}
        with progress.working(f"writing {self._part.path}"):
            for line in fetching.lines(self._gateway, batch["id"], asked):
                self._part.write(line)
            self._part.keep()


def format_of(path: Path | None) -> str:
    return "csv" if path is not None and path.suffix.lower() == ".csv" else "openai"


def require_free(path: Path, *, force: bool) -> None:
    """Raises BadFileError."""
    if path.exists() and not force:
        raise BadFileError(f"--out: {path} is there already; --force replaces it")


def open_to_write(path: Path, mode: str) -> BinaryIO:
    """Raises BadFileError."""
    try:
        return path.open(mode)  # type: ignore[return-value]  # modes here are binary ones
    except OSError as error:
        raise BadFileError(f"--out: cannot write {path}: {error.strerror}") from error


@contextlib.contextmanager
def opened(
    path: Path | None, gateway: Gateway, *, order: str, force: bool, batch_id: str | None = None
) -> Iterator[Out | None]:
    """None without a path. `batch_id`: of a batch whose file may be there already, to be gone on with."""
    if path is None:
        yield None
    elif order == "finished":
        with _followed(path, gateway, force=force, batch_id=batch_id) as followed:
            yield followed
    else:
        with Part(path, force=force) as part:
            yield Whole(gateway, part)


@contextlib.contextmanager
def _followed(path: Path, gateway: Gateway, *, force: bool, batch_id: str | None) -> Iterator[Followed]:
    written = Written()
    if batch_id is None:
        require_free(path, force=force)
    elif path.exists() and not force:
        written = following.written_of(gateway, path, batch_id)
    with open_to_write(path, "ab") as file:
        file.truncate(written.bytes)
        yield Followed(gateway, file, written)
