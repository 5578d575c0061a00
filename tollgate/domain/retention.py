"""How long a project's texts are kept: prompts and results apart, and apart from the accounts, which stay. Pure."""

from __future__ import annotations

import re
from enum import StrEnum
from uuid import UUID

from tollgate.domain.errors import ErasedError


class Texts(StrEnum):
    """What is erased of a task. Its row, its attempts, their tokens and costs are no texts."""

    PROMPTS = "prompts"
    """What was asked, with its metadata."""
    RESULTS = "results"
    """Answers, and the messages of errors: upstreams quote there what they were sent."""


ALL_TEXTS = tuple(Texts)
ERASED = "erased"
"""The error code of an answer that is not there any more."""
MIN_KEEP_S, MAX_KEEP_S = 3_600, 3_650 * 86_400
"""Shorter, and an answer is gone before it is fetched."""
KEEP_RULE = "hours or days, from '1h' to '3650d'"
_KEEP = re.compile(r"([1-9][0-9]{0,4})([hd])")
_UNITS_S = {"h": 3_600, "d": 86_400}


def parse_keep(text: str) -> int:
    """Seconds. Raises ValueError with what to write."""
    told = _KEEP.fullmatch(text)
    seconds = int(told[1]) * _UNITS_S[told[2]] if told else 0
    if not MIN_KEEP_S <= seconds <= MAX_KEEP_S:
        raise ValueError(f"{text[:40]!r} is no time to keep texts for; write {KEEP_RULE}")
    return seconds


def shown_keep(seconds: int | None) -> str | None:
    """ "30d", "36h"; None: for ever."""
    if seconds is None:
        return None
    unit = "h" if seconds % _UNITS_S["d"] else "d"
    return f"{seconds // _UNITS_S[unit]}{unit}"


def require_kept(answer: str | None, *, task_id: UUID) -> str:
    """The answer of a task that succeeded: None only where it was erased. Raises ErasedError."""
    if answer is None:
        raise ErasedError(str(task_id))
    return answer
