"""The body of a response in OpenAI's words, as the chat completion that it is upstream.

Source: platform.openai.com, "create a model response". What refers to an earlier response is refused: nothing
here keeps conversations.
"""

from __future__ import annotations

from typing import Any

import orjson
import pydantic

from gateway import validation
from gateway.chat_body import Text
from tollgate.domain.errors import InvalidRequestError

MAX_METADATA_BYTES = 16_384
TEXTS = frozenset({"input_text", "output_text", "text"})
PASSED = ("model", "temperature", "top_p", "user", "request_id", "parallel_tool_calls")
"""Fields that a chat completion has by the same name."""


class ResponsesBody(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="allow", strict=True, title="Response (OpenAI)")

    model: Text = pydantic.Field(description="the name of a model, as GET /v1/models lists them")
    input: str | list[dict[str, Any]] = pydantic.Field(
        min_length=1, description="a text, or a list of messages, function_call and function_call_output items"
    )
    instructions: str | None = pydantic.Field(None, description="a text: the first, system message")
    background: bool | None = pydantic.Field(None, description="true: the answer is an id, to be fetched later")
    stream: bool | None = pydantic.Field(None, description="false: GET /tasks/{id}/events is the stream of a task")
    max_output_tokens: int | None = pydantic.Field(None, ge=1, le=2**31 - 1, description="an integer from 1")
    metadata: dict[str, str] | None = pydantic.Field(None, description="an object of texts, returned as it came")
    tools: list[dict[str, Any]] | None = pydantic.Field(None, description="a list of tools of type function")
    tool_choice: str | dict[str, Any] | None = pydantic.Field(None, description="a string or an object")
    text: dict[str, Any] | None = pydantic.Field(None, description="an object such as {'format': {'type': 'text'}}")
    previous_response_id: None = pydantic.Field(None, description="leave it out: responses are not chained here")
    conversation: None = pydantic.Field(None, description="leave it out: conversations are not kept here")


def chat_of(body: dict[str, Any]) -> tuple[ResponsesBody, dict[str, Any]]:
    """What was asked, and the body of the chat completion. Raises InvalidRequestError."""
    asked = validation.check(body, ResponsesBody)
    if asked.stream:
        told = "stream: a response is not streamed; submit it with background, and read GET /tasks/{id}/events"
        raise InvalidRequestError(told, field="stream", allowed="false, or leave it out")
    if asked.metadata and len(orjson.dumps(asked.metadata)) > MAX_METADATA_BYTES:
        raise InvalidRequestError("metadata: too long", field="metadata", allowed=f"at most {MAX_METADATA_BYTES} bytes")
    chat: dict[str, Any] = {name: body[name] for name in PASSED if body.get(name) is not None}
    system = [{"role": "system", "content": asked.instructions}] if asked.instructions else []
    chat["messages"] = [*system, *_messages(asked.input)]
    if asked.max_output_tokens is not None:
        chat["max_tokens"] = asked.max_output_tokens
    if asked.tools:
        chat["tools"] = [_tool(tool, i) for i, tool in enumerate(asked.tools)]
    if asked.tool_choice is not None:
        chat["tool_choice"] = _tool_choice(asked.tool_choice)
    if (wanted := (asked.text or {}).get("format")) and wanted.get("type") != "text":
        chat["response_format"] = _format(wanted)
    return asked, chat


def _messages(given: str | list[dict[str, Any]]) -> list[dict[str, Any]]:
    if isinstance(given, str):
        return [{"role": "user", "content": given}]
    return [_message(item, index) for index, item in enumerate(given)]


def _message(item: dict[str, Any], index: int) -> dict[str, Any]:
    kind = item.get("type", "message")
    if kind == "message" and "role" in item:
        return {"role": item["role"], "content": _content(item.get("content"), index)}
    if kind == "function_call":
        function = {"name": item.get("name"), "arguments": item.get("arguments", "")}
        call = {"id": item.get("call_id"), "type": "function", "function": function}
        return {"role": "assistant", "content": None, "tool_calls": [call]}
    if kind == "function_call_output":
        return {"role": "tool", "tool_call_id": item.get("call_id"), "content": _content(item.get("output"), index)}
    raise _wrong(f"input.{index}", "a message, function_call or function_call_output")


def _content(given: Any, index: int) -> str | list[dict[str, Any]]:
    if isinstance(given, str):
        return given
    if not isinstance(given, list) or not all(isinstance(part, dict) for part in given):
        raise _wrong(f"input.{index}.content", "a text, or a list of parts")
    parts = [_part(part, index) for part in given]
    if all(part["type"] == "text" for part in parts):
        return "".join(part["text"] for part in parts)
    return parts


def _part(part: dict[str, Any], index: int) -> dict[str, Any]:
    if part.get("type") in TEXTS and isinstance(part.get("text"), str):
        return {"type": "text", "text": part["text"]}
    if part.get("type") == "input_image" and isinstance(part.get("image_url"), str):
        return {"type": "image_url", "image_url": {"url": part["image_url"]}}
    raise _wrong(f"input.{index}.content", "parts of type input_text, output_text or input_image")


def _tool(tool: dict[str, Any], index: int) -> dict[str, Any]:
    if tool.get("type") != "function" or not isinstance(tool.get("name"), str):
        raise _wrong(f"tools.{index}", "a tool of type function, with a name")
    kept = ("name", "description", "parameters", "strict")
    return {"type": "function", "function": {name: tool[name] for name in kept if tool.get(name) is not None}}


def _tool_choice(given: str | dict[str, Any]) -> str | dict[str, Any]:
    if isinstance(given, dict) and given.get("type") == "function":
        return {"type": "function", "function": {"name": given.get("name")}}
    return given


def _format(wanted: dict[str, Any]) -> dict[str, Any]:
    if wanted.get("type") == "json_schema":
        return {"type": "json_schema", "json_schema": {k: v for k, v in wanted.items() if k != "type"}}
    return wanted


def _wrong(field: str, allowed: str) -> InvalidRequestError:
    return InvalidRequestError(f"{field}: not understood", field=field, allowed=allowed)
