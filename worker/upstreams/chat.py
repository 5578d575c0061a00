"""An upstream that speaks ZhipuAI's v4 wire, or OpenAI's: the same body, another id and path.

ZhipuAI: docs.bigmodel.cn, "chat completions". OpenAI-compatible: vLLM, SGLang, Ollama.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import orjson

from tollgate.domain.errors import UpstreamError
from tollgate.domain.routing import UpstreamSpec
from tollgate.domain.usage import TokenUsage, parse_usage
from worker.upstreams.upstream import Answer, Call
from worker.upstreams.wire import Wire

PATHS = {"chat": "/chat/completions", "embeddings": "/embeddings"}


class ChatUpstream:
    """Direct calls. `secrets` maps the credentials' names to keys."""

    def __init__(self, spec: UpstreamSpec, *, base_url: str, secrets: Mapping[str, str]) -> None:
        self._spec = spec
        self._secrets = secrets
        self._wire = Wire(spec, base_url=base_url)

    async def call(self, call: Call) -> Answer:
        body: dict[str, Any] = {**orjson.loads(call.body), "model": call.model}
        headers = {"X-Request-Id": call.request_id}
        if self._spec.kind == "zhipu":
            body["request_id"] = call.request_id
        if secret := self._secrets.get(call.credential):
            headers["Authorization"] = f"Bearer {secret}"
        status, parsed, text = await self._wire.post(
            PATHS[call.endpoint], orjson.dumps(body), headers=headers, timeout_s=call.timeout_s, on_sent=call.on_sent
        )
        return _answer(call.endpoint, status, parsed, text)

    async def close(self) -> None:
        await self._wire.close()


def _answer(endpoint: str, status: int, parsed: Mapping[str, Any], text: str) -> Answer:
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
