"""The parameter checks of the real service: a wrong call is refused with 1210 to 1214 before the model runs.

A null counts as not given: ZhipuAI's SDK always sends `"thinking": null`. Ranges are those of the documentation.
"""

from __future__ import annotations

from collections.abc import Mapping

from tollgate.simulator.codes import RefusalError

ROLES = frozenset({"system", "user", "assistant", "tool"})
TOOLS_MAX = 128
REQUEST_ID_LENGTH = (6, 64)
USER_ID_LENGTH = (6, 128)
OUTPUT_CAPS = {"glm-5": 131_072, "glm-4.7": 131_072, "glm-4.6": 131_072, "glm-4.5": 98_304}
"""Start of a model's name -> the most max_tokens it takes."""
OUTPUT_CAP = 8_192
"""The same for older models."""


def invalid(field: str) -> RefusalError:
    """1214 in the words of the real service."""
    return RefusalError("1214", detail=f"{field} 参数非法。请检查文档。")


def missing(field: str) -> RefusalError:
    """1213 in the words of the real service."""
    return RefusalError("1213", detail=f"未正常接收到 {field} 参数。")


def check_messages(body: Mapping[str, object]) -> list[dict[str, object]]:
    """The messages; 1213 if there are none, 1214 if they are empty, malformed or without user or tool."""
    messages = body.get("messages")
    if messages is None:
        raise missing("messages")
    if not isinstance(messages, list) or not messages:
        raise invalid("messages")
    for message in messages:
        _check_message(message)
    if not any(message["role"] in {"user", "tool"} for message in messages):
        raise invalid("messages")
    return messages


def _check_message(message: object) -> None:
    if not isinstance(message, dict) or message.get("role") not in ROLES:
        raise invalid("messages")
    content = message.get("content")
    may_lack = message["role"] == "assistant" and message.get("tool_calls")
    if not isinstance(content, str | list) and not (content is None and may_lack):
        raise invalid("messages")


def check_sampling(body: Mapping[str, object], *, model: str) -> int | None:
    """temperature, top_p, max_tokens, seed and stop; returns max_tokens."""
    for field, low in (("temperature", 0.0), ("top_p", 0.0)):
        value = body.get(field)
        if value is None:
            continue
        if not isinstance(value, int | float) or isinstance(value, bool):
            raise invalid(field)
        if not low <= value <= 1:
            raise RefusalError("1210", detail=f"API 调用参数有误，请检查文档。{field} 应在 0 到 1 之间")
    _check_stop(body.get("stop"))
    if not _is_whole(body.get("seed", 0) or 0):
        raise invalid("seed")
    return _check_max_tokens(body.get("max_tokens"), model=model)


def _check_stop(stop: object) -> None:
    if stop is None or isinstance(stop, str):
        return
    if not isinstance(stop, list) or not all(isinstance(word, str) for word in stop):
        raise invalid("stop")


def _check_max_tokens(value: object, *, model: str) -> int | None:
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise invalid("max_tokens")
    cap = next((cap for start, cap in OUTPUT_CAPS.items() if model.startswith(start)), OUTPUT_CAP)
    if value > cap:
        raise RefusalError("1210", detail=f"API 调用参数有误，请检查文档。max_tokens 最大为 {cap}")
    return value


def check_identifiers(body: Mapping[str, object], *, check_request_id: bool) -> str | None:
    """request_id and user_id; returns the request_id."""
    request_id = _check_text(body, "request_id", length=REQUEST_ID_LENGTH if check_request_id else (1, 10_000))
    _check_text(body, "user_id", length=USER_ID_LENGTH)
    return request_id


def _check_text(body: Mapping[str, object], field: str, *, length: tuple[int, int]) -> str | None:
    value = body.get(field)
    if value is None:
        return None
    if not isinstance(value, str) or not length[0] <= len(value) <= length[1]:
        raise invalid(field)
    return value


def check_tools(body: Mapping[str, object]) -> list[dict[str, object]]:
    """The tools, at most TOOLS_MAX, each an object with a type."""
    tools = body.get("tools")
    if tools is None:
        return []
    if not isinstance(tools, list) or len(tools) > TOOLS_MAX:
        raise invalid("tools")
    if not all(isinstance(tool, dict) and isinstance(tool.get("type"), str) for tool in tools):
        raise invalid("tools")
    return tools


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
