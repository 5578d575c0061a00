"""How many tokens prompts have, for estimates: by the model's own tokenizer where models.toml names one.

Counting takes ten times as long as reading a line: a sample is counted, and says how far the estimate by characters is
off. The package `tokenizers` is imported only where a model names a tokenizer.
"""

from __future__ import annotations

import asyncio
import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tollgate.domain.errors import SettingsError
from tollgate.domain.routing import Catalog, Model
from tollgate.domain.usage import estimate_pieces, prompt_pieces

INSTALL = 'pip install "tollgate[tokenizers]"'
COUNTED_FIRST = 1_000
"""So many lines of a model are all counted, and then one in COUNTED_EACH."""
COUNTED_EACH = 50
CUT = 20_000
"""Characters of a text that are looked at: 5 ms of work."""


def require(catalog: Catalog) -> None:
    """Raises SettingsError for a tokenizer that is not there, or cannot be used without the package."""
    for model in catalog.models.values():
        if model.tokenizer is None:
            continue
        if not Path(model.tokenizer).is_file():
            raise SettingsError(f"model {model.name!r}: tokenizer: there is no file {model.tokenizer}")
        if importlib.util.find_spec("tokenizers") is None:
            raise SettingsError(
                f"model {model.name!r}: its tokenizer needs a package that is not installed: {INSTALL}; or leave it out"
            )


class Counter:
    """Of the prompts of one model in one estimate."""

    def __init__(self, tokenizer: Any, *, name: str) -> None:
        self.name = name
        self.lines = 0
        """Counted."""
        self._tokenizer = tokenizer
        self._seen = self._counted = self._estimated = 0

    @property
    def ratio(self) -> float:
        """Counted tokens for each estimated one, so far."""
        return self._counted / self._estimated if self._estimated else 1.0

    def look(self, body: Mapping[str, object]) -> None:
        """At the next line's; not each is counted."""
        self._seen += 1
        if self._seen > COUNTED_FIRST and self._seen % COUNTED_EACH:
            return
        pieces = [piece[:CUT] if isinstance(piece, str) else piece for piece in prompt_pieces(body)]
        self.lines += 1
        self._counted += sum(piece if isinstance(piece, int) else self._count(piece) for piece in pieces)
        self._estimated += estimate_pieces(pieces)

    def _count(self, text: str) -> int:
        return len(self._tokenizer.encode(text, add_special_tokens=False).ids)


class Tokenizers:
    """Those that were read, by their files. Each is read when it is first needed, in a thread."""

    def __init__(self) -> None:
        self._read: dict[str, Any] = {}

    async def counter(self, model: Model) -> Counter | None:
        """A new one; None: the model names no tokenizer. Raises SettingsError for a file that cannot be used."""
        if model.tokenizer is None:
            return None
        if model.tokenizer not in self._read:
            self._read[model.tokenizer] = await asyncio.to_thread(_load, model.tokenizer)
        return Counter(self._read[model.tokenizer], name=Path(model.tokenizer).name)


def _load(path: str) -> Any:
    import tokenizers

    try:
        tokenizer = tokenizers.Tokenizer.from_file(path)
    except Exception as error:  # the package raises nothing narrower
        raise SettingsError(f"the tokenizer {path} cannot be read: {error}") from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer
