"""The body of a v3 call: the model stands in the path, the messages in `prompt`.

Sources: zhipuai 1.0.7, `zhipuai.model_api`; the old documentation of chatglm_pro. Upstream it goes on the v4 wire,
which has no `ref`, `meta`, `return_type` and `incremental`.
"""

from __future__ import annotations

from typing import Any, Literal

import pydantic

from gateway import chat_body, validation
from gateway.chat_body import Message, RequestId
from tollgate.domain.errors import InvalidRequestError
from tollgate.domain.routing import Catalog
from tollgate.domain.tasks import TaskRequest

OWN = frozenset({"prompt", "request_id", "incremental", "return_type", "ref", "meta", "stream", "model", "messages"})


class PromptBody(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="allow", strict=True, allow_inf_nan=False, title="Prompt (v3)")

    prompt: str | list[Message] = pydantic.Field(
        min_length=1, description="a text, or a list of messages with role (user, assistant, system) and content"
    )
    temperature: float | None = pydantic.Field(None, ge=0, le=1, description="a number from 0 to 1")
    top_p: float | None = pydantic.Field(None, ge=0, le=1, description="a number from 0 to 1")
    request_id: RequestId | None = pydantic.Field(None, description="6 to 64 characters, no control characters")
    incremental: bool | None = pydantic.Field(
        None, description="true or false: events carry what is new (true, the default), or all so far"
    )
    return_type: Literal["json_string", "text"] | None = pydantic.Field(
        None, description="'json_string' (the default: the content is itself a JSON string) or 'text'"
    )

    @pydantic.field_validator("prompt")
    @classmethod
    def _something_to_answer(cls, prompt: str | list[Message]) -> str | list[Message]:
        if isinstance(prompt, list) and not any(one.role == "user" and one.content for one in prompt):
            raise ValueError("no message of a user: there is nothing to answer")
        return prompt


def check(given: dict[str, Any]) -> PromptBody:
    """Raises InvalidRequestError."""
    return validation.check(given, PromptBody)


def task_of(given: dict[str, Any], checked: PromptBody, *, model: str, catalog: Catalog, stream: bool) -> TaskRequest:
    """The request. Raises UnknownModelError, InvalidRequestError."""
    prompt, request_id = given["prompt"], checked.request_id
    rest = chat_body.without_nulls(given, less=OWN)
    if "embeddings" in catalog.find(model).endpoints:
        if stream:
            raise InvalidRequestError("an embedding is not streamed: call invoke", field="model", code="1212")
        if not isinstance(prompt, str):
            raise InvalidRequestError("prompt: not a text", field="prompt", allowed="a text")
        return TaskRequest(
            model=model, body={"model": model, "input": prompt}, endpoint="embeddings", request_id=request_id
        )
    messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
    if rest.get("top_p", 1) < 0.01:
        rest["top_p"] = 0.01  # the least of the v4 wire; v3 took any above 0
    body = {"model": model, **rest, "messages": messages}
    return TaskRequest(model=model, body=body, request_id=request_id, stream=stream)
