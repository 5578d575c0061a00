"""OpenAI's wire at /v1: chat completions, streamed or not, background responses, models, embeddings and
files.

openai's SDK takes it for OpenAI."""

from __future__ import annotations

from gateway.dialects.openai import batches, chat, embeddings, files, models, responses
from gateway.dialects.openai.errors import answer
from gateway.dialects.openai.responses_body import ResponsesBody
from gateway.dialects.sdk_batches import SdkBatchBody
from gateway.openai_chat_body import OpenAIChatBody

PREFIX = "/v1"
ROUTERS = tuple(part.router for part in (chat, models, embeddings, responses, files, batches))
BODIES = (OpenAIChatBody, ResponsesBody, SdkBatchBody)

__all__ = ["BODIES", "PREFIX", "ROUTERS", "answer"]
