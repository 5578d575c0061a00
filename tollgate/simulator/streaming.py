"""Sends an answer as server-sent events, at the settings' speed."""

from __future__ import annotations

import asyncio

import orjson
from aiohttp import web

from tollgate.simulator import answering, wire
from tollgate.simulator.answers import Answer
from tollgate.simulator.cloud import Cloud
from tollgate.simulator.faults import Fate, FaultKind

_HEADERS = {"Content-Type": "text/event-stream;charset=UTF-8", "Cache-Control": "no-cache"}
_CUTS = frozenset({FaultKind.CUT, FaultKind.STREAM_CUT})


async def send(request: web.Request, answer: Answer, *, cloud: Cloud, fate: Fate) -> web.StreamResponse:
    """The chunks, then `[DONE]`; half of them and a closed connection if the stream is cut."""
    body = orjson.dumps(wire.completion(answer))
    spoiled = await answering.spoil(request, body, cloud=cloud, fate=fate)
    if spoiled is not None:
        return spoiled
    frames = list(wire.chunks(answer))
    cut = fate.kind in _CUTS
    if cut:
        frames = frames[: max(len(frames) // 2, 1)]
    response = web.StreamResponse(headers=_HEADERS)
    await response.prepare(request)
    try:
        await _write(response, frames, speed=cloud.settings.tokens_per_second)
        if cut:
            answering.hang_up(request)
        else:
            await response.write(wire.DONE)
    except ConnectionResetError:
        pass  # the client left; the stream was billed with its first chunk
    return response


async def _write(response: web.StreamResponse, frames: list[bytes], *, speed: float | None) -> None:
    """Each frame in its time; all in one write where the generation takes none."""
    if speed is None:
        await response.write(b"".join(frames))
        return
    for frame in frames:
        await response.write(frame)
        await asyncio.sleep(wire.CHUNK_TOKENS / speed)
