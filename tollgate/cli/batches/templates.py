"""A prompt out of a row's columns, by name: "Classify: {text}". Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence

_PIECE = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|[{}]")


class TemplateError(ValueError):
    """The template does not fit the columns; the message says why and names those there are."""


class Template:
    """`text` for rows of `columns`; {{ and }} are braces. Raises TemplateError."""

    def __init__(self, text: str, *, columns: Sequence[str]) -> None:
        self._pieces: list[str | int] = []
        """Text as it is, or the index of a column."""
        end = 0
        for found in _PIECE.finditer(text):
            self._pieces.append(text[end : found.start()])
            self._pieces.append(_column(found, columns))
            end = found.end()
        self._pieces.append(text[end:])
        if not any(isinstance(piece, int) for piece in self._pieces):
            raise TemplateError(f"it names no column, so that all prompts would be the same; {_there_are(columns)}")

    def fill(self, row: Sequence[str]) -> str:
        """The prompt of a row that has all columns."""
        return "".join(row[piece] if isinstance(piece, int) else piece for piece in self._pieces)


def index_of(name: str, columns: Sequence[str]) -> int:
    """Where the column `name` stands. Raises TemplateError."""
    indexes = [index for index, column in enumerate(columns) if column == name]
    if not indexes:
        raise TemplateError(f"there is no column {name!r}; {_there_are(columns)}")
    if len(indexes) > 1:
        raise TemplateError(f"{len(indexes)} columns are called {name!r}; rename all but one")
    return indexes[0]


def _column(found: re.Match[str], columns: Sequence[str]) -> str | int:
    if found[0] in ("{{", "}}"):
        return found[0][0]
    if found[1] is None:
        raise TemplateError(f"a single {found[0]} at character {found.start() + 1}; write {found[0] * 2} for a brace")
    try:
        return index_of(found[1].strip(), columns)
    except TemplateError as error:
        raise TemplateError(f"{error}. Write {{{{ and }}}} for braces") from None


def _there_are(columns: Sequence[str]) -> str:
    return f"the columns are {', '.join(repr(column) for column in columns)}"
