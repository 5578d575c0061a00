"""How an answer leaves: as it should, or as a fault has it. The one place where refusals become HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress

from aiohttp import web

from tollgate.simulator import wire
from tollgate.simulator.cloud import CLOUD, Cloud
from tollgate.simulator.codes import RefusalError
from tollgate.simulator.faults import Fate, FaultKind

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
JSON_TYPE = {"Content-Type": "application/json; charset=UTF-8"}
_GLANCE_S = 0.1
"""How often a hanging call looks whether its client is still there."""


def guarded(name: str, handler: Handler) -> Handler:
    """`handler`, counted as `name`, with its RefusalError turned into ZhipuAI's error answer."""

    async def answer(request: web.Request) -> web.StreamResponse:
        cloud = request.app[CLOUD]
        cloud.meter.requests[name] += 1
        try:
            return await handler(request)
        except RefusalError as refusal:
            cloud.meter.refusals[refusal.code or f"http_{refusal.http_status}"] += 1
            return _refusal(refusal, retry_after_s=cloud.settings.retry_after_s)

    return answer


def _refusal(refusal: RefusalError, *, retry_after_s: float | None) -> web.Response:
    response = web.Response(status=refusal.http_status, body=refusal.body(), content_type=refusal.content_type)
    if retry_after_s is not None and (refusal.http_status == 429 or refusal.http_status >= 500):
        response.headers["Retry-After"] = f"{retry_after_s:g}"
    return response


async def send(request: web.Request, body: bytes, *, cloud: Cloud, fate: Fate) -> web.StreamResponse:
    """Answer with a JSON body, or with what `fate` makes of it."""
    spoiled = await spoil(request, body, cloud=cloud, fate=fate)
    if spoiled is not None:
        return spoiled
    if fate.kind is FaultKind.CUT:
        return await _send_half(request, body)
    return web.Response(body=body, headers=JSON_TYPE)


async def spoil(request: web.Request, body: bytes, *, cloud: Cloud, fate: Fate) -> web.StreamResponse | None:
    """The answer of a fault that leaves nothing of the real one; None for any other fate.

    Raises RefusalError for a server error. A hang returns when the client has left or the server stops.
    """
    if fate.kind is FaultKind.SERVER_ERROR:
        code = cloud.settings.server_error_code
        status = cloud.settings.server_error_status
        raise RefusalError(None if code == "none" else code, http_status=status)
    if fate.kind is FaultKind.CODE:
        raise RefusalError(fate.code)
    if fate.kind is FaultKind.HANG:
        await _hang(request, closing=cloud.closing)
        return web.Response(status=503)
    if fate.kind is FaultKind.GARBAGE:
        rubbish, content_type = wire.garbage(body, turn=cloud.garbage_turn)
        cloud.garbage_turn += 1
        return web.Response(body=rubbish, content_type=content_type)
    return None


async def _send_half(request: web.Request, body: bytes) -> web.StreamResponse:
    response = web.StreamResponse(headers=JSON_TYPE)
    response.content_length = len(body)
    await response.prepare(request)
    await response.write(body[: len(body) // 2])
    hang_up(request)
    return response


def hang_up(request: web.Request) -> None:
    """Close the connection after what was written; the client sees a body that ends too soon."""
    if request.transport is not None:
        request.transport.close()


async def _hang(request: web.Request, *, closing: asyncio.Event) -> None:
    """Wait until the client has left. aiohttp tells a handler only by the transport, so it is looked at."""
    while request.transport is not None and not request.transport.is_closing() and not closing.is_set():
        with suppress(TimeoutError):
            async with asyncio.timeout(_GLANCE_S):
                await closing.wait()
    hang_up(request)
