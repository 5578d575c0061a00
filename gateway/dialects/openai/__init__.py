"""OpenAI's wire at /v1: chat completions, streamed or not, background responses, models and embeddings.

openai's SDK takes it for OpenAI."""

from __future__ import annotations

from gateway.dialects.openai import chat, embeddings, models, responses
from gateway.dialects.openai.chat_body import OpenAIChatBody
from gateway.dialects.openai.errors import answer
from gateway.dialects.openai.responses_body import ResponsesBody

PREFIX = "/v1"
ROUTERS = tuple(part.router for part in (chat, models, embeddings, responses))
BODIES = (OpenAIChatBody, ResponsesBody)

__all__ = ["BODIES", "PREFIX", "ROUTERS", "answer"]
