"""The body of an embeddings call, as ZhipuAI and OpenAI have it.

Sources: docs.bigmodel.cn, "embeddings"; platform.openai.com, "create embeddings". ZhipuAI's answers hold lists of
numbers only: `encoding_format` is the gateway's to serve.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import pydantic

from gateway import chat_body, validation
from gateway.chat_body import RequestId, Text
from tollgate.domain.tasks import TaskRequest

OWN = frozenset({"request_id", "encoding_format", "user"})
Some = Annotated[str, pydantic.StringConstraints(min_length=1)]


class EmbeddingsBody(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="allow", strict=True, title="Embeddings parameters")

    model: Text = pydantic.Field(description="the name of an embedding model, as GET /models lists them")
    input: Some | Annotated[list[Some], pydantic.Field(min_length=1, max_length=2048)] = pydantic.Field(
        description="a text, or a list of 1 to 2048 texts"
    )
    dimensions: int | None = pydantic.Field(None, ge=1, le=65_536, description="an integer from 1")
    encoding_format: Literal["float", "base64"] | None = pydantic.Field(None, description="'float' or 'base64'")
    request_id: RequestId | None = pydantic.Field(None, description="6 to 64 characters, no control characters")


def task_of(body: Mapping[str, Any]) -> TaskRequest:
    """Raises InvalidRequestError."""
    checked = validation.check(body, EmbeddingsBody)
    return TaskRequest(
        model=checked.model,
        body=chat_body.without_nulls(body, less=OWN),
        endpoint="embeddings",
        request_id=checked.request_id,
    )
