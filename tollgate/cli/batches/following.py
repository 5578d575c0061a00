"""`--out` with `--order finished`: lines are appended as they end, and whoever comes later goes on where the file ends.

Each line holds the cursor that goes on after it, so that the file itself says all that is needed. After a cursor the
gateway may tell lines again that ended within the minute before: those that are in the file are passed over.
"""

from __future__ import annotations

import json
import os
import re
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO
from uuid import UUID

from tollgate.cli.batches import fetching
from tollgate.cli.batches.fetching import Patience
from tollgate.cli.client import Gateway, Json
from tollgate.cli.exits import BadFileError, GatewayUnreachableError, RefusedError

EVERY_S = 15.0
"""Each time the last minute is told once more; every second there would be little else."""
ASKED = {"format": "openai", "order": "finished"}
_ID = re.compile(rb'\{"id":"([^"]+)"')


@dataclass(slots=True, kw_only=True)
class Written:
    """How far a file is."""

    bytes: int = 0
    """To the end of its last whole line."""
    cursor: str | None = None
    ids: set[str] = field(default_factory=set)
    """Of lines that may be told again."""


class Followed:
    """Appends to `file`, which is as long as `written` says."""

    def __init__(self, gateway: Gateway, file: BinaryIO, written: Written) -> None:
        self._gateway = gateway
        self._file = file
        self._cursor = written.cursor
        self._ids = written.ids
        self._latest = time.monotonic()

    def follow(self, batch: Json) -> None:
        """With each progress of the batch."""
        if time.monotonic() - self._latest >= EVERY_S:
            self._append(batch["id"])
            self._latest = time.monotonic()

    def finish(self, batch: Json) -> None:
        """Once it has ended."""
        self._append(batch["id"])
        os.fsync(self._file.fileno())

    def _append(self, batch_id: str) -> None:
        patience = Patience(self._gateway)
        while True:
            before = self._cursor
            try:
                return self._round(batch_id)
            except (GatewayUnreachableError, RefusedError) as error:
                if self._cursor != before:
                    patience.rewarded()
                patience.bear(error)
            finally:
                self._file.flush()

    def _round(self, batch_id: str) -> None:
        """One stream. Within it no line comes twice; those that can come again in the next are those with its last
        cursor."""
        after = {} if self._cursor is None else {"after": self._cursor}
        again: set[str] = set()
        try:
            for line in fetching.read(self._gateway, batch_id, {**ASKED, **after}):
                told = json.loads(line)
                if told["cursor"] != self._cursor:
                    again.clear()
                    self._cursor = told["cursor"]
                again.add(told["id"])
                if told["id"] not in self._ids:
                    self._file.write(line)
        except BaseException:
            self._ids |= again
            raise
        self._ids = again


def written_of(gateway: Gateway, path: Path, batch_id: str) -> Written:
    """How far the file is with this batch. Raises BadFileError for one that holds something else."""
    found, last = Written(), b""
    with path.open("rb") as file:
        for line in file:
            if not line.endswith(b"\n"):
                break  # cut by whatever ended its writer
            found.bytes += len(line)
            if named := _ID.match(line):
                found.ids.add(named[1].decode())
            last = line
    if last:
        found.cursor = _cursor_of(last, path)
        _require_of(gateway, last, batch_id, path)
    return found


def _cursor_of(last: bytes, path: Path) -> str:
    try:
        return str(json.loads(last)["cursor"])
    except (ValueError, LookupError, TypeError):
        raise BadFileError(f"--out: {path} is no file that --order finished was writing; --force replaces it") from None


def _require_of(gateway: Gateway, last: bytes, batch_id: str, path: Path) -> None:
    """A line is named by its task, or where it became none by its batch and its number."""
    name, _, number = str(json.loads(last).get("id")).removeprefix("batch_req_").partition("_")
    try:
        named = str(UUID(name))
        holder = named if number else gateway.task(named)["batch_id"]
    except (ValueError, RefusedError):
        holder = None
    if holder != batch_id:
        raise BadFileError(f"--out: {path} holds results of another batch; --force replaces it")
