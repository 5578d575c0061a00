"""Server-sent events as a reader gets them, byte by byte.

Source: https://html.spec.whatwg.org/multipage/server-sent-events.html, 9.2.6: lines end with CR, LF or both, the data
lines of an event are joined by LF, one blank after the colon is not part of a value, and lines with a colon first are
comments. An event that the end of the stream cuts is dropped.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterator

MAX_EVENT = 16 * 1024 * 1024
"""Characters. A longer one is no event; reading on would only fill memory."""


class TooLongError(ValueError):
    """An event over MAX_EVENT."""


class Parser:
    """Of one stream."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8-sig")("replace")
        self._rest = ""
        self._after_cr = False
        self._data: list[str] = []

    def feed(self, part: bytes) -> Iterator[str]:
        """The data of each event that is complete with `part`. Raises TooLongError."""
        text = self._decoder.decode(part)
        if self._after_cr and text.startswith("\n"):
            text = text[1:]
        if text:
            self._after_cr = text.endswith("\r")
        *lines, self._rest = (self._rest + text).replace("\r\n", "\n").replace("\r", "\n").split("\n")
        for line in lines:
            if line:
                name, _, value = line.partition(":")
                if name == "data":
                    self._data.append(value.removeprefix(" "))
            elif self._data:
                yield "\n".join(self._data)
                self._data = []
        if len(self._rest) + sum(map(len, self._data)) > MAX_EVENT:
            raise TooLongError(f"an event of over {MAX_EVENT:,} characters")
