"""Parameters that a batch says for its lines: checked once, where the batch is asked for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gateway import validation
from gateway.batches.lines import URLS
from gateway.chat_body import ChatBody
from gateway.embeddings_body import EmbeddingsBody
from gateway.openai_chat_body import OpenAIChatBody
from gateway.task_body import TaskBody
from tollgate.domain.errors import InvalidRequestError

OF_A_LINE = frozenset(TaskBody.model_fields) - frozenset(ChatBody.model_fields) | {
    "model", "messages", "input", "stream", "stream_options", "request_id"
}  # fmt: skip
"""What no parameter is: what the batch says elsewhere, or what only a line can say."""
CHAT: Mapping[str, Any] = {"model": "any", "messages": [{"role": "user", "content": "x"}]}
EMBEDDINGS: Mapping[str, Any] = {"model": "any", "input": "x"}
"""Parameters are checked as a call has them, so there must be one."""


def check_parameters(given: Mapping[str, Any], *, endpoint: str | None) -> None:
    """Raises InvalidRequestError for what no line of a batch for `endpoint` could have: it would make every one of them
    invalid."""
    for name in given:
        if name in OF_A_LINE:
            told = f"parameters.{name}: it is no parameter; the batch says it beside them, or each line does"
            raise InvalidRequestError(told, field=f"parameters.{name}")
    dialect, kind = URLS.get(endpoint or "", ("zhipu", "chat"))
    if kind == "embeddings":
        validation.check({**EMBEDDINGS, **given}, EmbeddingsBody, at="parameters.")
    else:
        schema = OpenAIChatBody if dialect == "openai" else ChatBody
        validation.check({**CHAT, **given}, schema, at="parameters.")
