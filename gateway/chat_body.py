"""The parameters of a chat completion, checked as ZhipuAI documents them. Unknown ones pass through.

Source: docs.bigmodel.cn, "chat completions" (ranges), and the SDKs (which always send
`"response_format": null`: null means not given). Only known fields are checked; what is sent upstream
is the body as it came, without nulls.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import pydantic
from pydantic_core import PydanticCustomError

from gateway import validation
from tollgate.domain.tasks import TaskRequest

OWN = frozenset({"request_id", "stream", "stream_options"})
"""Fields that say how the answer is wanted; the upstream gets a request_id of ours."""
Text = Annotated[str, pydantic.StringConstraints(min_length=1, max_length=128)]
RequestId = Annotated[str, pydantic.StringConstraints(pattern=r"^\P{Cc}{6,64}$")]


class Message(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="allow", strict=True)

    role: Literal["system", "user", "assistant", "tool"]
    content: str | list[dict[str, Any]] | None = None
    tool_calls: list[dict[str, Any]] | None = None


class ChatBody(pydantic.BaseModel):
    """Field descriptions are the allowed values, as errors tell them."""

    model_config = pydantic.ConfigDict(extra="allow", strict=True, allow_inf_nan=False, title="Chat parameters")

    model: Text = pydantic.Field(description="the name of a model, as GET /models lists them")
    messages: list[Message] = pydantic.Field(
        min_length=1, description="a list of messages with role (system, user, assistant, tool) and content"
    )
    temperature: float | None = pydantic.Field(None, ge=0, le=1, description="a number from 0 to 1")
    top_p: float | None = pydantic.Field(None, ge=0.01, le=1, description="a number from 0.01 to 1")
    max_tokens: int | None = pydantic.Field(None, ge=1, le=2**31 - 1, description="an integer from 1")
    stop: list[str] | None = pydantic.Field(None, max_length=4, description="a list of at most 4 strings")
    seed: int | None = pydantic.Field(None, description="an integer")
    do_sample: bool | None = pydantic.Field(None, description="true or false")
    stream: bool | None = pydantic.Field(None, description="true or false")
    user_id: str | None = pydantic.Field(None, min_length=6, max_length=128, description="6 to 128 characters")
    request_id: RequestId | None = pydantic.Field(None, description="6 to 64 characters, no control characters")
    tools: list[dict[str, Any]] | None = pydantic.Field(None, max_length=128, description="a list of at most 128 tools")
    tool_choice: str | dict[str, Any] | None = pydantic.Field(None, description="a string or an object")
    response_format: dict[str, Any] | None = pydantic.Field(
        None, description="an object such as {'type': 'json_object'}"
    )
    thinking: dict[str, Any] | None = pydantic.Field(None, description="an object such as {'type': 'enabled'}")

    @pydantic.model_validator(mode="after")
    def _something_to_answer(self) -> ChatBody:
        if all(message.role in ("system", "developer", "assistant") for message in self.messages):
            told = "holds only system and assistant messages: there is nothing to answer"
            raise PydanticCustomError("value_error", "{told}", {"field": "messages", "told": told})
        for index, message in enumerate(self.messages):
            if message.content is None and not message.tool_calls:
                raise PydanticCustomError("missing", "Field required", {"field": f"messages.{index}.content"})
        return self


def task_of(body: Mapping[str, Any]) -> TaskRequest:
    """Raises InvalidRequestError."""
    checked = check(body)
    return TaskRequest(
        model=checked.model,
        body=without_nulls(body, less=OWN),
        request_id=checked.request_id,
        stream=bool(checked.stream),
    )


def check(body: Mapping[str, Any]) -> ChatBody:
    """Validate `body`. Raises InvalidRequestError."""
    return validation.check(body, ChatBody)


def without_nulls(body: Mapping[str, Any], *, less: frozenset[str] = frozenset()) -> dict[str, Any]:
    """`body` without null fields and without the fields of `less`: null means not given."""
    return {name: value for name, value in body.items() if value is not None and name not in less}
