"""POST /v1/embeddings. openai's SDK asks for base64 unless told otherwise: little-endian 32-bit floats."""

from __future__ import annotations

import base64
import struct
from dataclasses import replace
from typing import Any

import fastapi

from gateway import embeddings_body, openai_answers
from gateway.bodies import read_json, require_object
from gateway.dialects.openai.answering import answer_of
from gateway.dialects.openai.errors import RESPONSES, answer
from gateway.dialects.route import caller, route_class
from gateway.embeddings_body import EmbeddingsBody
from gateway.openai_chat_body import require_request_id
from gateway.openapi import body_of
from gateway.submitting import submit_one
from gateway.synchronous import bounded
from tollgate.store.tasks import Task

router = fastapi.APIRouter(prefix="/v1", tags=["OpenAI"], route_class=route_class(answer), responses=RESPONSES)


@router.post("/embeddings", openapi_extra=body_of(EmbeddingsBody))
async def embed(request: fastapi.Request) -> fastapi.Response:
    """Vectors of one text or a list of texts."""
    services, key = await caller(request)
    body = require_object(await read_json(request, max_bytes=services.settings.max_body_bytes))
    asked = bounded(embeddings_body.task_of(body), services.settings)
    asked = replace(asked, request_id=asked.request_id or require_request_id(request.headers.get("idempotency-key")))
    accepted = await submit_one(request, services, key, asked)

    def rendered(one: Task) -> dict[str, Any]:
        return _shown(one, encoded=body.get("encoding_format") == "base64")

    return await answer_of(request, services, key, accepted, render=rendered)


def _shown(one: Task, *, encoded: bool) -> dict[str, Any]:
    shown = openai_answers.embeddings(one)
    if encoded:
        shown["data"] = [{**each, "embedding": _base64(each["embedding"])} for each in shown["data"]]
    return shown


def _base64(vector: list[float]) -> str:
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
