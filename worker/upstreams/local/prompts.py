"""From a request's words to token ids, by the checkpoint's own chat template and tokenizer."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jinja2
import orjson

from tollgate.domain.errors import UpstreamError
from worker.upstreams.local import parameters, thoughts
from worker.upstreams.local.parameters import TOO_LONG, Defaults, Parameters, refused
from worker.upstreams.local.tokenizers import Tokenizer

LONG = 4_096
"""Characters of a body above which its prompt is made in a thread: some 2 ms of the loop's time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """One request, ready for the engine."""

    ids: list[int]
    max_tokens: int
    parameters: Parameters
    thinks: bool
    """The template has begun a thought, which the answer goes on with."""


class Prompter:
    """Makes prompts that fit `context_tokens` together with their answers."""

    def __init__(self, tokenizer: Tokenizer, *, context_tokens: int, defaults: Defaults) -> None:
        self._tokenizer = tokenizer
        self._context_tokens = context_tokens
        self._defaults = defaults

    async def prompt(self, body: str) -> Prompt:
        """Of a request's JSON text. Raises UpstreamError for what the engine would refuse or misunderstand."""
        if len(body) <= LONG:
            return self._prompt(body)
        return await asyncio.to_thread(self._prompt, body)

    def _prompt(self, body: str) -> Prompt:
        asked = parameters.read(orjson.loads(body), self._defaults)
        text = self._render(asked)
        ids = self._tokenizer.encode(text)
        return Prompt(
            ids=ids,
            max_tokens=self._max_tokens(len(ids), asked.max_tokens),
            parameters=asked,
            thinks=text.rstrip().endswith(thoughts.OPEN),
        )

    def _render(self, asked: Parameters) -> str:
        options: Mapping[str, Any] = {} if asked.thinking is None else {"enable_thinking": asked.thinking}
        try:
            return self._tokenizer.render(asked.messages, options)
        except (jinja2.TemplateError, TypeError, ValueError) as error:
            raise refused(f"messages: the model's chat template refuses them: {error}"[:500]) from error

    def _max_tokens(self, prompt_tokens: int, asked: int | None) -> int:
        """What is asked for, else what fits."""
        left = self._context_tokens - prompt_tokens
        if prompt_tokens == 0:
            raise refused("messages: they make an empty prompt")
        if left < 1:
            raise _too_long(f"the prompt has {prompt_tokens} tokens, and prompt and answer", self._context_tokens)
        if asked is not None and asked > left:
            raise refused(
                f"max_tokens: {asked} is too many after a prompt of {prompt_tokens} tokens: both together have room "
                f"for {self._context_tokens}; ask for {left} or fewer, or leave it out"
            )
        return asked or left


def _too_long(what: str, context_tokens: int) -> UpstreamError:
    return refused(f"{what} together have room for {context_tokens}", code=TOO_LONG)
