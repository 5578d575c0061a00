"""What a model thinks, apart from what it says: `<think>...</think>` at the beginning of its answer.

GLM-4.5 and later write both marks themselves, GLM-Z1's template and GLM-4.7's write the first at the prompt's end.
"""

from __future__ import annotations

from worker.upstreams.local.stops import ends_like

OPEN, CLOSE = "<think>", "</think>"


class Thoughts:
    """Splits a text that comes in pieces. `begun`: the prompt ended with the first mark."""

    def __init__(self, *, begun: bool) -> None:
        self._thinking = begun
        self._said = False
        """Whether the present part has a character: line breaks before its first are not kept."""
        self._beginning = not begun
        self._held = ""

    def feed(self, piece: str) -> dict[str, str]:
        """A delta: `reasoning_content`, `content`, or both."""
        text = self._held + piece
        self._held = ""
        if self._beginning:
            bare = text.lstrip()
            if len(bare) < len(OPEN) and OPEN.startswith(bare):
                self._held = text
                return {}
            self._beginning = False
            if bare.startswith(OPEN):
                self._thinking, text = True, bare[len(OPEN) :]
        if not self._thinking:
            return self._part("content", text)
        thought, closed, rest = text.partition(CLOSE)
        if closed:
            told = self._part("reasoning_content", thought)
            self._thinking, self._said = False, False
            return {**told, **self._part("content", rest)}
        held = ends_like(text, (CLOSE,))
        self._held = text[len(text) - held :]
        return self._part("reasoning_content", text[: len(text) - held])

    def flush(self) -> dict[str, str]:
        """What was held, at the end."""
        held, self._held, self._beginning = self._held, "", False
        return self._part("reasoning_content" if self._thinking else "content", held)

    def _part(self, name: str, text: str) -> dict[str, str]:
        if not self._said:
            text = text.lstrip("\n")
            self._said = bool(text)
        return {name: text} if text else {}
