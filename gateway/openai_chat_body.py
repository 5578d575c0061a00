"""The body of a chat completion in OpenAI's words, and the same in those of the upstream that will run it.

Source: platform.openai.com, "create chat completion". ZhipuAI takes a temperature of 0 to 1 and knows some fields by
other names, or not at all; servers of OpenAI's own wire get the body as it came.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import pydantic

from gateway import chat_body, validation
from gateway.chat_body import ChatBody, Message
from tollgate.domain.errors import InvalidRequestError
from tollgate.domain.tasks import TaskRequest

OWN = frozenset({"request_id", "stream", "stream_options", "store"})
"""Say how the answer is wanted, or are ours."""
UNKNOWN_TO_ZHIPU = frozenset(
    {
        "n", "frequency_penalty", "presence_penalty", "logit_bias", "logprobs", "top_logprobs", "user", "metadata",
        "service_tier", "parallel_tool_calls", "modalities", "prediction", "verbosity", "prompt_cache_key",
        "safety_identifier", "max_completion_tokens",
    }
)  # fmt: skip


class OpenAIMessage(Message):
    role: Literal["system", "developer", "user", "assistant", "tool"]  # type: ignore[assignment]  # one more


class StreamOptions(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="allow", strict=True)

    include_usage: bool | None = None


class OpenAIChatBody(ChatBody):
    model_config = pydantic.ConfigDict(title="Chat completion (OpenAI)")

    messages: list[OpenAIMessage] = pydantic.Field(  # type: ignore[assignment]
        min_length=1, description="a list of messages with role (system, developer, user, assistant, tool) and content"
    )
    temperature: float | None = pydantic.Field(None, ge=0, le=2, description="a number from 0 to 2")
    top_p: float | None = pydantic.Field(None, ge=0, le=1, description="a number from 0 to 1")
    stop: str | Annotated[list[str], pydantic.Field(max_length=4)] | None = pydantic.Field(  # type: ignore[assignment]
        None, description="a string, or a list of at most 4"
    )
    n: int | None = pydantic.Field(None, ge=1, le=1, description="1: one answer a task")
    max_completion_tokens: int | None = pydantic.Field(None, ge=1, le=2**31 - 1, description="an integer from 1")
    stream_options: StreamOptions | None = pydantic.Field(None, description="an object: include_usage, true or false")
    user: str | None = pydantic.Field(None, description="a string")


def task_of(body: dict[str, Any], *, key_of_header: str | None, kind: str) -> tuple[TaskRequest, bool]:
    """The request, and whether its stream tells the usage. `kind`: of the upstream. Raises InvalidRequestError.

    `key_of_header`: an Idempotency-Key, which is a request_id by another name."""
    checked = validation.check(body, OpenAIChatBody)
    request_id = checked.request_id or require_request_id(key_of_header)
    sent = chat_body.without_nulls(body, less=OWN)
    if kind == "zhipu":
        sent = _in_zhipus_words(sent)
    asked = TaskRequest(model=checked.model, body=sent, request_id=request_id, stream=bool(checked.stream))
    return asked, bool(checked.stream_options and checked.stream_options.include_usage)


def require_request_id(key_of_header: str | None) -> str | None:
    """An Idempotency-Key, as a request_id. Raises InvalidRequestError."""
    if key_of_header is not None and not 6 <= len(key_of_header) <= 64:
        raise InvalidRequestError(
            "Idempotency-Key: too short or too long", field="Idempotency-Key", allowed="6 to 64 characters"
        )
    return key_of_header


def _in_zhipus_words(body: dict[str, Any]) -> dict[str, Any]:
    sent = {name: value for name, value in body.items() if name not in UNKNOWN_TO_ZHIPU}
    if "max_completion_tokens" in body:
        sent["max_tokens"] = body["max_completion_tokens"]
    if 6 <= len(body.get("user", "")) <= 128:
        sent["user_id"] = body["user"]
    if body.get("temperature", 0) > 1:
        sent["temperature"] = 1.0
    if body.get("top_p", 1) < 0.01:
        sent["top_p"] = 0.01
    if isinstance(body.get("stop"), str):
        sent["stop"] = [body["stop"]]
    sent["messages"] = [{**one, "role": "system"} if one["role"] == "developer" else one for one in body["messages"]]
    return sent
