"""Stop strings in a text that comes in pieces. Where it is cut makes no difference to what is found."""

from __future__ import annotations

from collections.abc import Sequence


def ends_like(text: str, words: Sequence[str]) -> int:
    """How many of the last characters of `text` could be the beginning of one of `words`."""
    longest = max(map(len, words), default=1) - 1
    for length in range(min(longest, len(text)), 0, -1):
        if any(len(word) > length and text.endswith(word[:length]) for word in words):
            return length
    return 0


class StopStrings:
    """`hit`: one was found; nothing after it is taken."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = stops
        self._held = ""
        """The end of the text so far that could begin a stop string."""
        self.hit = False

    def feed(self, piece: str) -> str:
        """What of the text is certain now. Of several stop strings the one that is complete first counts."""
        if self.hit or not self._stops:
            return "" if self.hit else piece
        text = self._held + piece
        found = [(at + len(stop), at) for stop in self._stops if (at := text.find(stop)) >= 0]
        if found:
            self.hit, self._held = True, ""
            return text[: min(found)[1]]
        held = ends_like(text, self._stops)
        self._held = text[len(text) - held :]
        return text[: len(text) - held]

    def flush(self) -> str:
        """What was held, at the text's end: it began no stop string."""
        held, self._held = self._held, ""
        return held
