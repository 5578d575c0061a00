"""POST /embeddings: deterministic vectors. A request_id is not remembered here; hooks are not read."""

from __future__ import annotations

import asyncio
import time
from hashlib import shake_128
from math import sqrt

import orjson
from aiohttp import web

from tollgate.domain.usage import TokenUsage
from tollgate.simulator import answering, calls, faults, wire
from tollgate.simulator.cloud import CLOUD


async def embed(request: web.Request) -> web.StreamResponse:
    """Check, decide the fate, let the latency pass, bill the prompt's tokens, answer."""
    cloud = request.app[CLOUD]
    cloud.authenticate(request)
    body = calls.parse_body(await request.read())
    call = calls.parse_embeddings(body, knows=cloud.knows, settings=cloud.settings)
    number = cloud.next_number()
    fate = cloud.fate_of_number(number)
    cloud.refuse(fate)
    with cloud.meter.occupied(limit=cloud.settings.max_in_flight):
        seconds = faults.latency_s(cloud.settings, number=number)
        if seconds > 0:
            await asyncio.sleep(seconds)
        used = TokenUsage(prompt_tokens=call.prompt_tokens)
        identifier = cloud.next_identifier()
        if cloud.bills(fate):
            request_id, created = call.request_id or identifier, int(time.time())
            cloud.charge(used, model=call.model, request_id=request_id, identifier=identifier, created=created)
        dimensions = call.dimensions or cloud.settings.embedding_dimensions
        vectors = [vector(text, model=call.model, dimensions=dimensions) for text in call.texts]
        answer = orjson.dumps(wire.embeddings(call.model, vectors=vectors, used=used))
        return await answering.send(request, answer, cloud=cloud, fate=fate)


def vector(text: str, *, model: str, dimensions: int) -> list[float]:
    """A unit vector that depends on nothing but model, text and dimensions. It carries no meaning."""
    raw = shake_128(f"{model}\n{text}".encode()).digest(2 * dimensions)
    values = [int.from_bytes(raw[at : at + 2], "big") - 32_767.5 for at in range(0, len(raw), 2)]
    length = sqrt(sum(value * value for value in values))
    return [round(value / length, 6) for value in values]
