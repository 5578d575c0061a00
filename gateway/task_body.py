"""One task in the words of the native API: POST /tasks, and a line of a batch."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import orjson
import pydantic

from gateway import chat_body, times, validation
from gateway.chat_body import ChatBody
from tollgate.domain.errors import InvalidRequestError
from tollgate.domain.states import OnUncertain, Priority
from tollgate.domain.tasks import TaskRequest

Label = Annotated[str, pydantic.StringConstraints(pattern=r"^\P{Cc}{1,64}$")]
CustomId = Annotated[str, pydantic.StringConstraints(pattern=r"^\P{Cc}{1,256}$")]
MAX_METADATA_BYTES = 16_384


def _messages_or_prompt(schema: dict[str, Any]) -> None:
    """In the documentation: what `_with_messages` makes of a prompt is required only of the result."""
    schema["required"] = ["model"]
    schema["oneOf"] = [{"required": ["messages"]}, {"required": ["prompt"]}]


class TaskBody(ChatBody):
    """One task of POST /tasks: the parameters of a chat completion, and the gateway's own."""

    model_config = pydantic.ConfigDict(title="Task", json_schema_extra=_messages_or_prompt)

    prompt: str | None = pydantic.Field(None, min_length=1, description="a text: short for one user message")
    custom_id: CustomId | None = pydantic.Field(None, description="1 to 256 characters, no control characters")
    label: Label | None = pydantic.Field(
        None, description="1 to 64 characters, no control characters: a dimension of the accounts"
    )
    metadata: dict[str, Any] | None = pydantic.Field(
        None, description=f"a JSON object of at most {MAX_METADATA_BYTES} bytes, returned as it came"
    )
    priority: Annotated[Priority, pydantic.Field(strict=False)] | None = pydantic.Field(
        None, description="'interactive' or 'bulk'"
    )
    run_after: times.Moment | None = pydantic.Field(None, description=times.BODY_RULE)
    expires_at: times.Moment | None = pydantic.Field(None, description=times.BODY_RULE)
    on_uncertain: Annotated[OnUncertain, pydantic.Field(strict=False)] | None = pydantic.Field(
        None, description="'retry' or 'fail': what follows a call that may have been billed without an answer"
    )
    callback_url: str | None = pydantic.Field(None, description="an https URL that is told of the task's end")
    mode: Literal["direct", "async"] | None = pydantic.Field(
        None, description="'direct' or 'async': one call, or the upstream's submit and poll; default: as the model says"
    )


OWN = frozenset(TaskBody.model_fields) - frozenset(ChatBody.model_fields) | {"request_id", "stream"}
"""The gateway's own fields: never sent upstream."""


def task_of(given: dict[str, Any], *, at: str = "") -> TaskRequest:
    """Raises InvalidRequestError; `at` is put before its field ("tasks.3.")."""
    body = _with_messages(given, at=at)
    checked = validation.check(body, TaskBody, at=at)
    require_short(checked.metadata, at=at)
    return TaskRequest(
        model=checked.model,
        body=chat_body.without_nulls(body, less=OWN),
        request_id=checked.request_id,
        custom_id=checked.custom_id,
        label=checked.label,
        metadata=checked.metadata,
        priority=checked.priority,
        run_after=checked.run_after,
        expires_at=checked.expires_at,
        on_uncertain=checked.on_uncertain,
        mode=checked.mode,
        callback_url=checked.callback_url,
        stream=bool(checked.stream),
    )


def _with_messages(given: dict[str, Any], *, at: str) -> dict[str, Any]:
    """`prompt` is short for one user message. What is wrong with its type, the schema says."""
    prompt = given.get("prompt")
    if prompt is None:
        return given
    if given.get("messages") is not None:
        raise InvalidRequestError(f"{at}prompt: give prompt or messages, not both", field=f"{at}prompt", code="1215")
    content = prompt if isinstance(prompt, str) else ""
    return {**given, "messages": [{"role": "user", "content": content}]}


def require_short(metadata: dict[str, Any] | None, *, at: str = "") -> None:
    """Raises InvalidRequestError."""
    if metadata and len(orjson.dumps(metadata)) > MAX_METADATA_BYTES:
        raise InvalidRequestError(
            f"{at}metadata: too long", field=f"{at}metadata", allowed=f"at most {MAX_METADATA_BYTES} bytes of JSON"
        )
