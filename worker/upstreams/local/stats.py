"""What an engine has done so far."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True, kw_only=True)
class Stats:
    """Counts since the start, but for the last four."""

    steps: int = 0
    """In which rows decoded."""
    rows: int = 0
    """Their rows; by `steps`: how well the steps were filled."""
    tokens: int = 0
    """That requests were told."""
    prompt_tokens: int = 0
    """That came into the cache."""
    prefills: int = 0
    """Passes over prompts."""
    faults: int = 0
    """Requests that ended by one of their own."""
    worked_s: float = 0.0
    """The sum of what was charged to requests."""
    decoding: int = 0
    prefilling: int = 0
    waiting: int = 0
    graphs: int = 0
    """Shapes of decoding that are replayed."""
