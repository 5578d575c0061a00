"""An upstream that speaks ZhipuAI's v4 wire, or OpenAI's: the same body, another id and path.

ZhipuAI: docs.bigmodel.cn, "chat completions". OpenAI-compatible: vLLM, SGLang, Ollama.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

from tollgate.domain.errors import UpstreamError
from tollgate.domain.routing import UpstreamSpec
from tollgate.domain.usage import parse_usage
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
            PATHS[call.endpoint], orjson.dumps(body), headers=headers, timeout_s=call.timeout_s, trace=call.on_sent
        )
        return _answer(call.endpoint, status, parsed, text)

    async def close(self) -> None:
        await self._wire.close()


def _answer(endpoint: str, status: int, parsed: Mapping[str, Any], text: str) -> Answer:
    """Raises UpstreamError (garbage) for a 200 that holds no answer."""
    finish_reason = None
    if endpoint == "chat":
        finish_reason = _finish_reason(parsed, status)
    elif not isinstance(parsed.get("data"), list):
        raise UpstreamError("the answer has no data", http_status=status, kind="garbage")
    upstream_id = parsed.get("id")
    return Answer(
        body=text,
        usage=parse_usage(parsed.get("usage")),
        http_status=status,
        upstream_id=upstream_id if isinstance(upstream_id, str) else None,
        finish_reason=finish_reason,
    )


def _finish_reason(parsed: Mapping[str, Any], status: int) -> str | None:
    choices = parsed.get("choices")
    whole = isinstance(choices, list) and choices and all(_is_choice(choice) for choice in choices)
    if not whole or not isinstance(choices, list):
        raise UpstreamError("the answer has no choices", http_status=status, kind="garbage")
    reason = choices[0].get("finish_reason")
    return reason if isinstance(reason, str) else None


def _is_choice(choice: object) -> bool:
    return isinstance(choice, dict) and isinstance(choice.get("message"), dict)
