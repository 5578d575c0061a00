"""Tokens: what an upstream says it counted, and an estimate where it has not counted yet.

`parse_usage` reads untrusted bodies: what it cannot read is None, never an exception.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping

from tollgate.domain.values import value

MAX_TOKENS = 2**31 - 1
"""The largest count believed: no context is near it, and an integer column ends there."""
MESSAGE_TOKENS = 4
"""Tokens for a message's role and separators, as chat templates add them."""
IMAGE_TOKENS = 1_000
"""A guess for one picture or other non-text part, whose bytes say nothing about its tokens."""


@value
class TokenUsage:
    """Tokens of one answer. `cached_tokens` is the part of `prompt_tokens` read from a cache.

    `engine_us` is its share of a local engine's time, in microseconds; 0: not known, or not a local engine's.
    `split_known` is False where only a total was told: all of it then stands in `prompt_tokens`.
    `estimated` is True where Tollgate counted and the upstream did not.
    Raises ValueError for a negative count or time, or for more cached than prompt tokens.
    """

    prompt_tokens: int
    cached_tokens: int = 0
    completion_tokens: int = 0
    engine_us: int = 0
    split_known: bool = True
    estimated: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.cached_tokens <= self.prompt_tokens or self.completion_tokens < 0:
            raise ValueError("token counts must satisfy 0 <= cached <= prompt and 0 <= completion")
        if self.engine_us < 0:
            raise ValueError("engine_us must not be negative")

    @property
    def total_tokens(self) -> int:
        """Prompt and completion tokens together; cached ones are part of the prompt."""
        return self.prompt_tokens + self.completion_tokens


def parse_usage(usage: object) -> TokenUsage | None:
    """Read the `usage` mapping of an upstream's body; None if it is unreadable.

    Forms: ZhipuAI v4 and OpenAI (`prompt_tokens`, `completion_tokens`, and cached ones in
    `prompt_tokens_details.cached_tokens`); embeddings, which may leave `completion_tokens` out;
    ZhipuAI v3, which has only `total_tokens`.
    """
    if not isinstance(usage, Mapping):
        return None
    try:
        prompt = _count(usage, "prompt_tokens")
        completion = _count(usage, "completion_tokens")
        total = _count(usage, "total_tokens")
    except ValueError:
        return None
    cached = _cached(usage)
    if prompt is None:
        return None if total is None else TokenUsage(prompt_tokens=total, split_known=False)
    if completion is None:
        completion = max(0, total - prompt) if total is not None else 0
    return TokenUsage(prompt_tokens=prompt, cached_tokens=min(cached, prompt), completion_tokens=completion)


def _cached(usage: Mapping[str, object]) -> int:
    """0 where it cannot be read: a detail must not cost the counts that were told."""
    details = usage.get("prompt_tokens_details")
    try:
        return (_count(details, "cached_tokens") or 0) if isinstance(details, Mapping) else 0
    except ValueError:
        return 0


def _count(values: Mapping[str, object], name: str) -> int | None:
    value = values.get(name)
    if value is None:
        return None
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # 100.0: JSON has one kind of number
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= MAX_TOKENS:
        raise ValueError(f"{name} is not a count")
    return value


def estimate_prompt_tokens(body: Mapping[str, object]) -> int:
    """A rough estimate of a request's prompt tokens, leaning high; never a bill, only a reservation.

    A CJK character counts 1/1.5 token, any other character 1/3.5, a message 4 more, tools by the
    length of their JSON. Reads chat (`messages`, `tools`), embeddings (`input`) and v3 (`prompt`).
    """
    return estimate_pieces(prompt_pieces(body))


def estimate_pieces(pieces: Iterable[str | int]) -> int:
    """The same of texts, and of counts that are known."""
    characters = octets = fixed = 0
    for piece in pieces:
        if isinstance(piece, int):
            fixed += piece
        else:
            characters += len(piece)
            octets += len(piece) if piece.isascii() else len(piece.encode("utf-8", "surrogatepass"))
    # An ASCII character has one byte, a CJK one three: wide = (octets - characters) / 2, and
    # wide / 1.5 + (characters - wide) / 3.5 = (4 octets + 2 characters) / 21. Rounded up.
    return fixed - -(4 * octets + 2 * characters) // 21


def prompt_pieces(body: Mapping[str, object]) -> Iterator[str | int]:
    """The prompt's texts, and fixed counts of tokens for what is not text."""
    for field in ("messages", "prompt", "input"):
        yield from _content_pieces(body.get(field))
    if tools := body.get("tools"):
        yield _json(tools)


def _content_pieces(content: object) -> Iterator[str | int]:
    """Pieces of a string, a message, a part of a message, or a list of these (or of token ids)."""
    if isinstance(content, str):
        yield content
    elif isinstance(content, dict):
        yield from _mapping_pieces(content)
    elif isinstance(content, list | tuple):
        for item in content:
            if isinstance(item, int):
                yield 1
            else:
                yield from _content_pieces(item)


def _mapping_pieces(item: Mapping[str, object]) -> Iterator[str | int]:
    if "role" in item:
        yield MESSAGE_TOKENS
        yield from _content_pieces(item.get("content"))
        if calls := item.get("tool_calls"):
            yield _json(calls)
    elif isinstance(text := item.get("text"), str):
        yield text
    else:
        yield IMAGE_TOKENS


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, default=str)
