"""How the simulator counts tokens: one per four bytes of UTF-8, rounded up. A Chinese character is three bytes.

The rule is not ZhipuAI's tokenizer; it is one that a test can work out by hand.
"""

from __future__ import annotations

from collections.abc import Mapping

import orjson

BYTES_PER_TOKEN = 4
TOKENS_PER_MESSAGE = 4
"""Added for each message: its role and its marks."""
CACHE_BLOCK = 16
"""Cached prompt tokens come in whole blocks of this many."""


def count(text: str) -> int:
    """Tokens of a text; an empty one has none."""
    size = len(text) if text.isascii() else len(text.encode())
    return -(-size // BYTES_PER_TOKEN)


def cut(text: str, *, tokens: int) -> str:
    """The longest start of `text` that counts at most `tokens`, at a character's border."""
    if count(text) <= tokens:
        return text
    return text.encode()[: tokens * BYTES_PER_TOKEN].decode(errors="ignore")


def text_of(content: object) -> str:
    """The text of a message's content: a string, or the text parts of a list."""
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        texts = [part.get("text") for part in content if isinstance(part, Mapping)]
        return "\n".join(text for text in texts if isinstance(text, str))
    return ""


def count_prompt(messages: list[dict[str, object]], *, tools: object) -> int:
    """The contents' tokens, TOKENS_PER_MESSAGE for each message, and the tokens of the tools as JSON."""
    total = sum(count(text_of(message.get("content"))) + TOKENS_PER_MESSAGE for message in messages)
    return total + (count(orjson.dumps(tools).decode()) if tools else 0)


def count_cached(messages: list[dict[str, object]]) -> int:
    """Cached prompt tokens: those of a leading system message, rounded down to whole CACHE_BLOCKs.

    Without memory: the first call with a system message is as cached as the tenth, so any test can foretell it.
    """
    first = messages[0]
    if first.get("role") != "system":
        return 0
    return count(text_of(first.get("content"))) // CACHE_BLOCK * CACHE_BLOCK
