"""The body of a chat completion, in OpenAI's words or ZhipuAI's, as the local engine understands it. Pure.

Sources: platform.openai.com, "create chat completion"; docs.bigmodel.cn, "chat completions". What would change the
answer and is not done here is refused by its name; what only says who asks (`user`, `metadata`) is passed over.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tollgate.domain.errors import UpstreamError
from worker.upstreams.local.requests import Sampling

BAD_PARAMETER = "1210"
"""ZhipuAI's code of a parameter that is wrong or cannot be served: final, as `tollgate.domain.verdicts` has it."""
TOO_LONG = "1261"
"""Of a prompt that is longer than the context."""
SMALLEST_TOP_P = 1e-6
"""For 0, which OpenAI allows: the likeliest token alone."""
SEEDS = 2**63

HARMLESS: Mapping[str, tuple[object, ...]] = {
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "parallel_tool_calls": (True, False),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "n": (1,),
    "best_of": (1,),
    "logprobs": (False,),
    "top_logprobs": (0,),
    "logit_bias": ({},),
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "repetition_penalty": (1,),
    "min_p": (0,),
    "min_tokens": (0,),
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
    "audio": (),
    "prediction": (),
    "web_search_options": (),
}
"""Parameters that the engine does not know, and the values with which they ask for nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Defaults:
    """What the checkpoint's generation_config.json says of sampling."""

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    do_sample: bool = True
    """Whether tokens are drawn where a request says neither this nor a temperature."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameters:
    """One request, in words."""

    messages: list[dict[str, str]]
    """Each with role (system, user, assistant) and content."""
    sampling: Sampling
    max_tokens: int | None
    """None: as many as fit."""
    stop: tuple[str, ...] = ()
    thinking: bool | None = None
    """Whether a model that can is to think first; None: as its template has it."""


def refused(message: str, *, code: str = BAD_PARAMETER) -> UpstreamError:
    """Final: the same request would be refused again."""
    return UpstreamError(message, code=code, http_status=400)


def read(body: Mapping[str, Any], defaults: Defaults) -> Parameters:
    """Raises UpstreamError, which names the parameter."""
    for name, harmless in HARMLESS.items():
        value = body.get(name)
        if value is not None and value not in harmless:
            raise refused(f"{name}: the local engine does not know it; leave it out")
    return Parameters(
        messages=_messages(body),
        sampling=_sampling(body, defaults),
        max_tokens=_max_tokens(body),
        stop=_stop(body),
        thinking=_thinking(body),
    )


def _messages(body: Mapping[str, Any]) -> list[dict[str, str]]:
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        raise refused("messages: a list of at least one message is needed")
    return [_message(one, f"messages.{index}") for index, one in enumerate(messages)]


def _message(message: object, where: str) -> dict[str, str]:
    if not isinstance(message, Mapping):
        raise refused(f"{where}: not an object")
    role = {"developer": "system"}.get(str(message.get("role")), message.get("role"))
    if role not in ("system", "user", "assistant"):
        raise refused(f"{where}.role: the local engine knows system, user and assistant")
    if message.get("tool_calls"):
        raise refused(f"{where}.tool_calls: the local engine does not know tools")
    return {"role": role, "content": _text(message.get("content"), f"{where}.content")}


def _text(content: object, where: str) -> str:
    """A string, or the texts of a list of parts."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise refused(f"{where}: a text is needed")
    texts = []
    for part in content:
        if not isinstance(part, Mapping) or part.get("type") != "text" or not isinstance(part.get("text"), str):
            raise refused(f"{where}: the local engine reads text only, no images, sound or files")
        texts.append(part["text"])
    return "".join(texts)


def _sampling(body: Mapping[str, Any], defaults: Defaults) -> Sampling:
    temperature = _number(body, "temperature", least=0, default=defaults.temperature)
    if not _drawn(body, defaults):
        temperature = 0.0
    top_k = _whole(body, "top_k", least=-1, default=defaults.top_k)
    seed = body.get("seed")
    if seed is not None and (isinstance(seed, bool) or not isinstance(seed, int)):
        raise refused("seed: an integer is needed")
    return Sampling(
        temperature=temperature,
        top_p=max(_number(body, "top_p", least=0, most=1, default=defaults.top_p), SMALLEST_TOP_P),
        top_k=min(max(top_k, 0), 2**31 - 1),  # -1 is vLLM's word for all
        seed=None if seed is None else seed % SEEDS,
    )


def _drawn(body: Mapping[str, Any], defaults: Defaults) -> bool:
    """False: the likeliest token is taken, whatever the temperature."""
    if isinstance(said := body.get("do_sample"), bool):
        return said
    return defaults.do_sample or body.get("temperature") is not None


def _max_tokens(body: Mapping[str, Any]) -> int | None:
    for name in ("max_completion_tokens", "max_tokens"):
        if body.get(name) is not None:
            return _whole(body, name, least=1, default=1)
    return None


def _stop(body: Mapping[str, Any]) -> tuple[str, ...]:
    stop = body.get("stop")
    if stop is None:
        return ()
    stops = [stop] if isinstance(stop, str) else stop
    if not isinstance(stops, list) or not all(isinstance(one, str) for one in stops):
        raise refused("stop: a string or a list of strings is needed")
    return tuple(one for one in stops if one)


def _thinking(body: Mapping[str, Any]) -> bool | None:
    """ZhipuAI's `thinking`, and OpenAI's `reasoning_effort` as far as it says none."""
    thinking = body.get("thinking")
    if isinstance(thinking, Mapping) and thinking.get("type") in ("enabled", "disabled"):
        return bool(thinking["type"] == "enabled")
    if thinking is not None:
        raise refused('thinking: write {"type": "enabled"} or {"type": "disabled"}')
    return False if body.get("reasoning_effort") == "none" else None


def _number(body: Mapping[str, Any], name: str, *, least: float, most: float = 100.0, default: float) -> float:
    value = body.get(name)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
        raise refused(f"{name}: a number from {least:g} to {most:g} is needed")
    return float(value)


def _whole(body: Mapping[str, Any], name: str, *, least: int, default: int) -> int:
    value = body.get(name)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise refused(f"{name}: an integer from {least} is needed")
    return value
