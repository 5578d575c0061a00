"""A file's name as its owner gave it: shown, and never used as a path."""

from __future__ import annotations

import re
import unicodedata

MAX_CHARACTERS = 255
UNNAMED = "input.jsonl"
NOT_SHOWN = frozenset({"Cc", "Cs", "Zl", "Zp"})
"""Control characters, halves of surrogate pairs, and what breaks lines: by Unicode's general category."""


def cleaned(name: str | None) -> str:
    """Without the folders it came from and what cannot be shown; cut where it is too long, but for its ending."""
    shown = "".join(c for c in name or "" if unicodedata.category(c) not in NOT_SHOWN)
    last = re.split(r"[/\\]", shown)[-1].strip()
    if last.strip(".") == "":
        return UNNAMED
    if len(last) <= MAX_CHARACTERS:
        return last
    stem, dot, ending = last.rpartition(".")
    kept = dot + ending if stem and len(ending) < 16 else ""
    return last[: MAX_CHARACTERS - len(kept)] + kept
