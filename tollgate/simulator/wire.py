"""The bodies of ZhipuAI's v4 wire: answers, stream chunks, async tasks, embeddings, and garbage."""

from __future__ import annotations

from collections.abc import Iterator

import orjson

from tollgate.domain.usage import TokenUsage
from tollgate.simulator import tokens
from tollgate.simulator.answers import Answer

CHUNK_TOKENS = 4
"""Tokens in one chunk of a stream."""
DONE = b"data: [DONE]\n\n"
_LINE_BREAKS = (("\u2028", b"\\u2028"), ("\u2029", b"\\u2029"), ("\u0085", b"\\u0085"))
_CHUNK_CHARS = CHUNK_TOKENS * tokens.BYTES_PER_TOKEN


def usage(used: TokenUsage, *, reasoning_tokens: int = 0) -> dict[str, object]:
    """The `usage` object, with the cached tokens where ZhipuAI puts them."""
    body: dict[str, object] = {
        "prompt_tokens": used.prompt_tokens,
        "completion_tokens": used.completion_tokens,
        "total_tokens": used.total_tokens,
        "prompt_tokens_details": {"cached_tokens": used.cached_tokens},
    }
    if reasoning_tokens:
        body["completion_tokens_details"] = {"reasoning_tokens": reasoning_tokens}
    return body


def completion(answer: Answer) -> dict[str, object]:
    """The body of a direct call; an async result is the same with its task_status."""
    message: dict[str, object] = {"role": "assistant", "content": answer.content}
    if answer.reasoning is not None:
        message["reasoning_content"] = answer.reasoning
    if answer.tool_call is not None:
        message["tool_calls"] = [answer.tool_call]
    return {
        "id": answer.identifier,
        "request_id": answer.request_id,
        "created": answer.created,
        "model": answer.model,
        "choices": [{"index": 0, "finish_reason": answer.finish_reason, "message": message}],
        "usage": usage(answer.usage, reasoning_tokens=answer.reasoning_tokens),
    }


def chunks(answer: Answer) -> Iterator[bytes]:
    """The SSE frames of an answer without `[DONE]`; the last one carries finish_reason and usage."""
    for piece in _pieces(answer.reasoning):
        yield _frame(answer, {"role": "assistant", "reasoning_content": piece})
    for piece in _pieces(answer.content):
        yield _frame(answer, {"role": "assistant", "content": piece})
    last: dict[str, object] = {"role": "assistant", "content": ""}
    if answer.tool_call is not None:
        last["tool_calls"] = [answer.tool_call]
    yield _frame(answer, last, ends=True)


def _pieces(text: str | None) -> Iterator[str]:
    for start in range(0, len(text or ""), _CHUNK_CHARS):
        yield (text or "")[start : start + _CHUNK_CHARS]


def _frame(answer: Answer, delta: dict[str, object], *, ends: bool = False) -> bytes:
    finish_reason = answer.finish_reason if ends else None
    body: dict[str, object] = {
        "id": answer.identifier,
        "created": answer.created,
        "model": answer.model,
        "choices": [{"index": 0, "delta": delta, "finish_reason": finish_reason}],
    }
    if ends:
        body["usage"] = usage(answer.usage, reasoning_tokens=answer.reasoning_tokens)
    return b"data: " + escape_line_breaks(orjson.dumps(body)) + b"\n\n"


def escape_line_breaks(body: bytes) -> bytes:
    """JSON without raw U+2028, U+2029 and U+0085: ZhipuAI's SDK takes them for the end of an SSE line."""
    for character, escaped in _LINE_BREAKS:
        body = body.replace(character.encode(), escaped)
    return body


def embeddings(model: str, *, vectors: list[list[float]], used: TokenUsage) -> dict[str, object]:
    """The body of an embeddings call; the SDK wants completion_tokens too."""
    data = [{"object": "embedding", "index": index, "embedding": vector} for index, vector in enumerate(vectors)]
    return {"object": "list", "model": model, "data": data, "usage": usage(used)}


def garbage(body: bytes, *, turn: int) -> tuple[bytes, str]:
    """The `turn`-th unreadable form of an answer, and its content type: four forms by turns."""
    forms = (
        (b"upstream connect error or disconnect/reset before headers", "text/plain"),
        (b'{"code":500,"msg":"404 NOT_FOUND","success":false}', "application/json"),
        (body[: max(len(body) * 2 // 3, 1)], "application/json"),
        (b"<html><head><title>502 Bad Gateway</title></head><body>nginx</body></html>", "text/html"),
    )
    return forms[turn % len(forms)]
