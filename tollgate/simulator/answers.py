"""Composes the answer to a chat call: a pure function of the call, and of the fault that befell it."""

from __future__ import annotations

from dataclasses import dataclass

import orjson

from tollgate.domain.usage import TokenUsage
from tollgate.simulator import tokens, tool_calls
from tollgate.simulator.calls import ChatCall
from tollgate.simulator.faults import FaultKind

_STORY = (
    "the old man had one big red cat and the cat sat all day out for fun but one dry day she ran far off the map "
    "and met new fog low ice wet oak hot tar and two shy fox who led her out you can ask any elk who saw how the "
    "cat won her way now she has her own bed and the man can nap for tea and jam are due "
)
"""Words of three letters and a blank: one token each by the rule of `tokens`."""
_STORY_TOKENS = len(_STORY) // tokens.BYTES_PER_TOKEN
SHORTEST, LONGEST = 24, 87
"""Tokens of an answer of which nobody asked a length: from its digest, evenly between these."""
REASONING_TOKENS = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A finished chat answer: what a bill, a body or a stream is made from. `created` is in unix seconds."""

    identifier: str
    request_id: str
    created: int
    model: str
    content: str | None
    reasoning: str | None
    tool_call: dict[str, object] | None
    finish_reason: str
    usage: TokenUsage
    reasoning_tokens: int


def compose(call: ChatCall, *, identifier: str, created: int, kind: FaultKind | None = None) -> Answer:
    """The answer. `kind` matters only where the fault shows in the answer: finish_sensitive, network_error."""
    reasoning, content, finish_reason = _texts(call)
    tool_call = None
    if kind is FaultKind.FINISH_SENSITIVE:
        reasoning, content, finish_reason = None, "", "sensitive"
    elif kind is FaultKind.NETWORK_ERROR:
        content, finish_reason = content[: len(content) // 2], "network_error"
    elif call.tool is not None:
        tool_call, finish_reason = tool_calls.call(call.tool, digest=call.digest), "tool_calls"
        content = ""
    reasoning_tokens = tokens.count(reasoning) if reasoning else 0
    spoken = orjson.dumps(tool_call["function"]).decode() if tool_call else content
    completion_tokens = reasoning_tokens + tokens.count(spoken)
    return Answer(
        identifier=identifier,
        request_id=call.request_id or identifier,
        created=created,
        model=call.model,
        content=None if tool_call else content,
        reasoning=reasoning,
        tool_call=tool_call,
        finish_reason=finish_reason,
        usage=_usage(call, completion_tokens=completion_tokens),
        reasoning_tokens=reasoning_tokens,
    )


def _usage(call: ChatCall, *, completion_tokens: int) -> TokenUsage:
    return TokenUsage(
        prompt_tokens=call.prompt_tokens,
        cached_tokens=call.cached_tokens,
        completion_tokens=completion_tokens,
    )


def _texts(call: ChatCall) -> tuple[str | None, str, str]:
    """Reasoning, content and finish_reason within max_tokens, which counts both."""
    content = _content(call)
    finish_reason = "stop"
    for word in call.stop:
        content = content.split(word, 1)[0] if word else content
    reasoning = _story(f"Thinking {call.digest}: ", call, tokens_wanted=REASONING_TOKENS) if call.thinking else None
    if call.max_tokens is not None:
        if reasoning is not None:
            reasoning = tokens.cut(reasoning, tokens=call.max_tokens)
        left = call.max_tokens - (tokens.count(reasoning) if reasoning else 0)
        if tokens.count(content) > left:
            content, finish_reason = tokens.cut(content, tokens=left), "length"
    return reasoning, content, finish_reason


def _content(call: ChatCall) -> str:
    if call.hooks.echo is not None:
        return call.hooks.echo
    wanted = call.hooks.tokens
    if wanted is None:
        wanted = SHORTEST + int(call.digest[:4], 16) % (LONGEST - SHORTEST + 1)
    text = _story(f"Simulated answer {call.digest}: ", call, tokens_wanted=wanted)
    return orjson.dumps({"answer": text}).decode() if call.as_json else text


def _story(start: str, call: ChatCall, *, tokens_wanted: int) -> str:
    """Exactly `tokens_wanted` tokens: the start, then words from a place that the digest names."""
    place = int(call.digest[-4:], 16) % _STORY_TOKENS
    size = tokens_wanted * tokens.BYTES_PER_TOKEN
    repeats = -(-size // len(_STORY)) + 1
    return (start + (_STORY * (repeats + 1))[place * tokens.BYTES_PER_TOKEN :])[: max(size - 1, 0)]
