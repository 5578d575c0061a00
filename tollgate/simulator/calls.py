"""A call as the simulator understands it: parsed from the body, checked, and with its prompt already counted."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from hashlib import blake2b

import orjson

from tollgate.simulator import checks, hooks, tokens
from tollgate.simulator.codes import RefusalError
from tollgate.simulator.hooks import Hooks
from tollgate.simulator.settings import SimulatorSettings

EMBEDDING_PREFIX = "embedding"
"""A model whose name starts so embeds and does not chat; every other one chats."""
INPUTS_MAX = 64
"""Texts in one embeddings call (ZhipuAI's documentation for embedding-3)."""
DIMENSIONS_MAX = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatCall:
    """A chat call, direct or async. `digest` stands for (model, messages, seed): the answer is a function of it."""

    model: str
    request_id: str | None
    digest: str
    prompt_tokens: int
    cached_tokens: int
    max_tokens: int | None
    stream: bool
    stop: tuple[str, ...]
    tool: Mapping[str, object] | None
    """The function to call, if tool_choice or a hook asks for one."""
    thinking: bool
    as_json: bool
    hooks: Hooks


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbeddingsCall:
    """An embeddings call; `dimensions` None means the settings' default."""

    model: str
    request_id: str | None
    texts: tuple[str, ...]
    prompt_tokens: int
    dimensions: int | None


def parse_body(raw: bytes) -> dict[str, object]:
    """The JSON object of a request; 1210 if the body is none."""
    try:
        body = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise RefusalError("1210", detail="API 调用参数有误，请检查文档。请求体不是合法的 JSON") from error
    if not isinstance(body, dict):
        raise RefusalError("1210")
    return body


def parse_chat(body: Mapping[str, object], *, knows: Callable[[str], bool], settings: SimulatorSettings) -> ChatCall:
    """The chat call in `body`. Raises RefusalError with 1210 to 1214, or 1261 for a prompt that is too long."""
    model = _model(body, knows=knows, embeds=False)
    messages = checks.check_messages(body)
    max_tokens = checks.check_sampling(body, model=model)
    request_id = checks.check_identifiers(body, check_request_id=settings.check_request_id)
    tools = checks.check_tools(body)
    prompt_tokens = tokens.count_prompt(messages, tools=tools)
    if prompt_tokens > settings.context_tokens:
        raise RefusalError("1261")
    asked = hooks.read(messages)
    return ChatCall(
        model=model,
        request_id=request_id,
        digest=_digest(model, messages, body.get("seed")),
        prompt_tokens=prompt_tokens,
        cached_tokens=tokens.count_cached(messages),
        max_tokens=max_tokens,
        stream=body.get("stream") is True,
        stop=_stop_words(body.get("stop")),
        tool=_asked_tool(tools, choice=body.get("tool_choice"), hooked=asked.tool) if tools else None,
        thinking=_type_of(body.get("thinking")) == "enabled",
        as_json=_type_of(body.get("response_format")) == "json_object",
        hooks=asked,
    )


def parse_embeddings(
    body: Mapping[str, object], *, knows: Callable[[str], bool], settings: SimulatorSettings
) -> EmbeddingsCall:
    """The embeddings call in `body`. Raises RefusalError with 1211 to 1214, or 1261."""
    model = _model(body, knows=knows, embeds=True)
    given = body.get("input")
    if given is None:
        raise checks.missing("input")
    texts = tuple(given) if isinstance(given, list) else (given,)
    if not 0 < len(texts) <= INPUTS_MAX or not all(isinstance(text, str) and text for text in texts):
        raise checks.invalid("input")
    dimensions = body.get("dimensions")
    if dimensions is not None and not (type(dimensions) is int and 1 <= dimensions <= DIMENSIONS_MAX):
        raise checks.invalid("dimensions")
    prompt_tokens = sum(tokens.count(text) for text in texts)
    if prompt_tokens > settings.context_tokens:
        raise RefusalError("1261")
    return EmbeddingsCall(
        model=model,
        request_id=checks.check_identifiers(body, check_request_id=settings.check_request_id),
        texts=texts,
        prompt_tokens=prompt_tokens,
        dimensions=dimensions,
    )


def _model(body: Mapping[str, object], *, knows: Callable[[str], bool], embeds: bool) -> str:
    model = body.get("model")
    if model is None:
        raise checks.missing("model")
    if not isinstance(model, str) or not knows(model):
        raise RefusalError("1211")
    if model.startswith(EMBEDDING_PREFIX) is not embeds:
        raise RefusalError("1212")
    return model


def _digest(model: str, messages: list[dict[str, object]], seed: object) -> str:
    return blake2b(orjson.dumps((model, messages, seed)), digest_size=8).hexdigest()


def _stop_words(stop: object) -> tuple[str, ...]:
    if isinstance(stop, str):
        return (stop,)
    return tuple(stop) if isinstance(stop, list) else ()


def _type_of(value: object) -> object:
    return value.get("type") if isinstance(value, Mapping) else None


def _asked_tool(tools: list[dict[str, object]], *, choice: object, hooked: bool) -> Mapping[str, object] | None:
    functions = [tool["function"] for tool in tools if isinstance(tool.get("function"), Mapping)]
    named = choice.get("function") if isinstance(choice, Mapping) else None
    if isinstance(named, Mapping):
        found = [function for function in functions if function.get("name") == named.get("name")]  # type: ignore[attr-defined]
        if not found:
            raise checks.invalid("tool_choice")
        return found[0]  # type: ignore[return-value]
    if functions and (hooked or choice == "required"):
        return functions[0]  # type: ignore[return-value]
    return None
