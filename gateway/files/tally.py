"""What is told of a file: how many bytes and lines it has, and their SHA-256. Counted while it comes in."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

BOM = b"\xef\xbb\xbf"
BLANK = b" \t\r\v\f"
"""White space but for the line feed, which ends lines."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """A file that is kept. `lines` are those with more in them than white space; the last may lack its line feed."""

    bytes: int
    lines: int
    sha256: str


class Tally:
    """Takes a file piece by piece, wherever it is cut. Without a loop over its lines: 2 GB have ten million."""

    def __init__(self) -> None:
        self._bytes = 0
        self._lines = 0
        self._in_line = False
        self._sha256 = hashlib.sha256()

    def add(self, piece: bytes) -> None:
        self._sha256.update(piece)
        self._count_lines(piece if self._bytes else piece.removeprefix(BOM))
        self._bytes += len(piece)

    def written(self) -> Written:
        """Of all that was added."""
        lines = self._lines + self._in_line
        return Written(bytes=self._bytes, lines=lines, sha256=self._sha256.hexdigest())

    def _count_lines(self, piece: bytes) -> None:
        """A line feed ends a line that is not blank where something else stands before it."""
        dense = piece.translate(None, BLANK)
        while b"\n\n" in dense:
            dense = dense.replace(b"\n\n", b"\n")
        if dense:
            ends_nothing = dense.startswith(b"\n") and not self._in_line
            self._lines += dense.count(b"\n") - ends_nothing
            self._in_line = not dense.endswith(b"\n")
