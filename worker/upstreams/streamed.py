"""An answer that comes as a stream of chunks, put together as it would have come in one piece.

Chunks are `{"id", "created", "model", "choices": [{"index", "delta", "finish_reason"}], "usage"}`, in ZhipuAI's form
(usage in the last one) and in OpenAI's (usage in one without choices; vLLM and SGLang can tell it with each).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

from tollgate.domain.errors import UpstreamError
from tollgate.domain.usage import TokenUsage, parse_usage
from worker.upstreams.upstream import Answer, Writer
from worker.upstreams.wire import refusal_of

DONE = "[DONE]"
STATUS = 200


class StreamedAnswer:
    """Its message goes to `writer`, which is new."""

    def __init__(self, writer: Writer) -> None:
        self._writer = writer
        self._head: dict[str, Any] = {}
        self._usage: Any = None
        self._finish_reason: str | None = None
        self.done = False
        """The upstream said that this was all."""

    def take(self, data: str) -> None:
        """One chunk. Raises UpstreamError for what is none, and for an error in its place."""
        try:
            chunk = orjson.loads(data)
        except ValueError:
            chunk = None
        if not isinstance(chunk, dict):
            raise UpstreamError("a chunk of the stream is not a JSON object", http_status=STATUS, kind="garbage")
        if isinstance(chunk.get("error"), dict):
            raise refusal_of(chunk, STATUS, default="an error without a message")
        self._usage = chunk.pop("usage", None) or self._usage
        choices = chunk.pop("choices", None)
        self._head |= chunk
        for choice in choices if isinstance(choices, list) else ():
            if isinstance(choice, Mapping):
                self._choose(choice)

    def _choose(self, choice: Mapping[str, Any]) -> None:
        if choice.get("index", 0) != 0:
            raise UpstreamError("the stream has more than one choice", http_status=STATUS, kind="garbage")
        delta = choice.get("delta") or choice.get("message")
        if isinstance(delta, Mapping):
            self._writer.add(delta)
        reason = choice.get("finish_reason")
        self._finish_reason = reason if isinstance(reason, str) and reason else self._finish_reason

    @property
    def usage(self) -> TokenUsage | None:
        """As last told."""
        return parse_usage(self._usage)

    @property
    def whole(self) -> bool:
        """The model, or the upstream, said that it had ended."""
        return self.done or self._finish_reason is not None

    def answer(self) -> Answer:
        """Raises UpstreamError (cut) where the stream ended before the answer did."""
        if not self.whole:
            raise UpstreamError("the stream ended before the answer did", kind="cut", usage=self.usage)
        usage = self.usage
        reason = self._finish_reason or "stop"
        choice = {"index": 0, "finish_reason": reason, "message": self._writer.record.message()}
        body = {**self._head, "choices": [choice]} | ({"usage": self._usage} if usage else {})
        if "object" in body:  # of a chunk
            body["object"] = "chat.completion"
        upstream_id = self._head.get("id")
        return Answer(
            body=orjson.dumps(body).decode(),
            usage=usage,
            http_status=STATUS,
            upstream_id=upstream_id if isinstance(upstream_id, str) else None,
            finish_reason=reason,
            texts=() if usage else self._writer.record.written,
        )
