"""An upstream that speaks ZhipuAI's v4 wire, or OpenAI's: the same body, another id and path.

ZhipuAI: docs.bigmodel.cn, "chat completions". OpenAI-compatible: vLLM, SGLang, Ollama.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import orjson

from tollgate.domain.errors import UpstreamError
from tollgate.domain.routing import UpstreamSpec
from tollgate.domain.usage import TokenUsage, parse_usage
from worker.upstreams.streamed import DONE, StreamedAnswer
from worker.upstreams.upstream import Answer, Call, Writer
from worker.upstreams.wire import Wire

PATHS = {"chat": "/chat/completions", "embeddings": "/embeddings"}


class ChatUpstream:
    """Direct calls. `secrets` maps the credentials' names to keys."""

    def __init__(self, spec: UpstreamSpec, *, base_url: str, secrets: Mapping[str, str]) -> None:
        self._spec = spec
        self._secrets = secrets
        self._wire = Wire(spec, base_url=base_url)

    async def call(self, call: Call) -> Answer:
        path = PATHS[call.endpoint]
        if call.writer is not None and call.endpoint == "chat":
            return await self._stream(path, call, call.writer)
        status, parsed, text = await self._post(path, call)
        return parse_answer(call.endpoint, status, parsed, text)

    async def _post(self, path: str, call: Call) -> tuple[int, Mapping[str, Any], str]:
        return await self._wire.post(
            path, self._body(call), headers=self._headers(call), timeout_s=call.timeout_s, on_sent=call.on_sent
        )

    async def _stream(self, path: str, call: Call, writer: Writer) -> Answer:
        """The same answer as in one piece, put together from its chunks."""
        streamed = StreamedAnswer(writer)
        body = self._body(call, stream=True)
        chunks = self._wire.stream(
            path, body, headers=self._headers(call), timeout_s=call.timeout_s, on_sent=call.on_sent
        )
        try:
            async with contextlib.aclosing(chunks):
                async for data in chunks:
                    if data.strip() == DONE:
                        streamed.done = True
                        break
                    streamed.take(data)
        except UpstreamError as error:
            if not streamed.whole:  # what breaks after the answer's end takes nothing from it
                error.usage = error.usage or streamed.usage
                raise
        return streamed.answer()

    def _body(self, call: Call, *, stream: bool = False) -> bytes:
        body: dict[str, Any] = {**orjson.loads(call.body), "model": call.model}
        if self._spec.kind == "zhipu":
            body["request_id"] = call.request_id
        if stream:
            body["stream"] = True
            if self._spec.kind != "zhipu":  # whose last chunk always tells the usage
                body["stream_options"] = {"include_usage": True}
        return orjson.dumps(body)

    def _headers(self, call: Call) -> dict[str, str]:
        return {"X-Request-Id": call.request_id, **self._authorization(call.credential)}

    def _authorization(self, credential: str) -> dict[str, str]:
        secret = self._secrets.get(credential)
        return {"Authorization": f"Bearer {secret}"} if secret else {}

    async def close(self) -> None:
        await self._wire.close()


def parse_answer(endpoint: str, status: int, parsed: Mapping[str, Any], text: str) -> Answer:
    """Raises UpstreamError (garbage) for a 200 that holds no answer."""
    usage = parse_usage(parsed.get("usage"))
    finish_reason: object = None
    texts: tuple[str, ...] = ()
    if endpoint == "chat":
        choices = _choices(parsed, status, usage)
        finish_reason = choices[0].get("finish_reason")
        texts = () if usage else tuple(_texts(choices))
    elif not isinstance(parsed.get("data"), list):
        raise UpstreamError("the answer has no data", http_status=status, kind="garbage", usage=usage)
    upstream_id = parsed.get("id")
    return Answer(
        body=text,
        usage=usage,
        http_status=status,
        upstream_id=upstream_id if isinstance(upstream_id, str) else None,
        finish_reason=finish_reason if isinstance(finish_reason, str) else None,
        texts=texts,
    )


def _choices(parsed: Mapping[str, Any], status: int, usage: TokenUsage | None) -> list[dict[str, Any]]:
    """Raises UpstreamError, with what the call cost all the same."""
    choices = parsed.get("choices")
    if not isinstance(choices, list) or not choices or not all(_is_choice(choice) for choice in choices):
        raise UpstreamError("the answer has no choices", http_status=status, kind="garbage", usage=usage)
    return choices


def _is_choice(choice: object) -> bool:
    return isinstance(choice, dict) and isinstance(choice.get("message"), dict)


def _texts(choices: list[dict[str, Any]]) -> Iterator[str]:
    for choice in choices:
        for field in ("content", "reasoning_content"):
            if isinstance(text := choice["message"].get(field), str):
                yield text
        if calls := choice["message"].get("tool_calls"):
            yield orjson.dumps(calls).decode()
