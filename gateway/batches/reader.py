"""From chunks of bytes to lines, each with its number and its place in the file. Pure, and of flat memory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

BOM = b"\xef\xbb\xbf"
BESIDE = len(BOM) + len(b"\r")
"""Bytes that a line may have besides its text."""


@dataclass(frozen=True, slots=True)
class Place:
    """Before the first byte of a line: where a reader may begin."""

    bytes: int = 0
    lines: int = 0
    """Before it, blank ones counted."""


START = Place()


@dataclass(frozen=True, slots=True)
class RawLine:
    number: int
    """From 1, blank ones counted."""
    raw: bytes | None
    """Without its end; None: longer than allowed, and passed over."""
    start: int
    end: int
    """Bytes from the file's beginning to the line's, and to that of the next."""

    @property
    def after(self) -> Place:
        return Place(self.end, self.number)


class LineReader:
    """`feed` it chunk after chunk, each iterator to its end, then `finish`. Blank lines are passed over.

    `place` is after the last line that was told or passed over: a new reader that begins there tells the rest.
    It holds one chunk and one line, of at most `max_line_bytes`. It takes LF and CRLF, a byte order mark, and a last
    line without an end.
    """

    def __init__(self, *, max_line_bytes: int, at: Place = START) -> None:
        self._max_line_bytes = max_line_bytes
        self._held = bytearray()
        self._length = 0
        """Of the line so far. More than is held: the line is too long."""
        self.place = at

    def feed(self, chunk: bytes) -> Iterator[RawLine]:
        begin = 0
        while (end := chunk.find(b"\n", begin)) >= 0:
            self._hold(chunk, begin, end)
            line = self._cut(self._length + 1)
            begin = end + 1
            if line is not None:
                yield line
        self._hold(chunk, begin, len(chunk))

    def finish(self) -> Iterator[RawLine]:
        """The last line, if it has no end."""
        if self._length and (line := self._cut(self._length)) is not None:
            yield line

    def _hold(self, chunk: bytes, begin: int, end: int) -> None:
        """A line over the limit is only measured."""
        self._length += end - begin
        if self._length <= self._max_line_bytes + BESIDE:
            self._held += chunk[begin:end]
        else:
            self._held.clear()

    def _cut(self, size: int) -> RawLine | None:
        """The line that ends here, `size` bytes with its end; None if it is blank."""
        start, number = self.place.bytes, self.place.lines + 1
        whole = len(self._held) == self._length
        raw = bytes(self._held)
        self._held.clear()
        self._length = 0
        self.place = Place(start + size, number)
        if start == 0:
            raw = raw.removeprefix(BOM)
        raw = raw.removesuffix(b"\r")
        if whole and not raw.strip():
            return None
        told = raw if whole and len(raw) <= self._max_line_bytes else None
        return RawLine(number, told, start, start + size)
