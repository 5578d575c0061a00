"""A checkpoint's tokenizer, as far as a caller of the engine needs it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tokenizers.decoders import DecodeStream

from tollgate.domain.errors import SettingsError


class Tokenizer:
    """Of a transformers tokenizer. Raises SettingsError where that cannot do what is needed.

    It is asked by the loop and by threads at once: `tokenizers` reads without locks, and nothing here writes. That is
    why its own `apply_chat_template(tokenize=True)` is not used: it sets truncation anew at each call."""

    def __init__(self, loaded: Any) -> None:
        fast = getattr(loaded, "backend_tokenizer", None)
        if fast is None:
            raise SettingsError("the checkpoint has no tokenizer.json: convert it (`tollgate models convert`)")
        if not loaded.chat_template:
            raise SettingsError(
                "the checkpoint has no chat template: put the chat_template.jinja of its instruct version beside it"
            )
        fast.no_truncation()
        fast.no_padding()
        self._loaded = loaded
        self._fast = fast

    @property
    def template(self) -> str:
        """Of the chat, in Jinja."""
        template = self._loaded.chat_template
        return template if isinstance(template, str) else str(template)

    def render(self, messages: Sequence[Mapping[str, str]], options: Mapping[str, Any]) -> str:
        """The prompt's text, up to where the assistant begins. Raises what the template raises."""
        text = self._loaded.apply_chat_template(
            list(messages), tokenize=False, add_generation_prompt=True, **dict(options)
        )
        return str(text)

    def encode(self, text: str) -> list[int]:
        """Token ids; the template has written the special tokens."""
        return list(self._fast.encode(text, add_special_tokens=False).ids)

    def decode(self, ids: Sequence[int]) -> str:
        """The text of `ids`, without special tokens. What is no UTF-8 becomes U+FFFD."""
        return str(self._fast.decode(list(ids), skip_special_tokens=True))

    def stream(self) -> TextStream:
        """A new answer's text."""
        return TextStream(self, self._fast)


class TextStream:
    """Text out of tokens that come one by one: a character is told when its last byte is there."""

    def __init__(self, tokenizer: Tokenizer, fast: Any) -> None:
        self._tokenizer = tokenizer
        self._fast = fast
        self._stream = DecodeStream(skip_special_tokens=True)
        self._ids: list[int] = []
        self._told = 0
        self._whole = True

    def feed(self, token: int) -> str:
        self._ids.append(token)
        piece = self._stream.step(self._fast, token)
        self._whole = piece is not None
        self._told += len(piece or "")
        return piece or ""

    def flush(self) -> str:
        """What waits for bytes that never came."""
        return "" if self._whole else self._tokenizer.decode(self._ids)[self._told :]
