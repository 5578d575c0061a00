"""Server-sent events as an answer. Source: https://html.spec.whatwg.org/multipage/server-sent-events.html."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from typing import Any

import fastapi
from starlette.types import Receive, Scope, Send

COMMENT = b": still here\n\n"
"""Readers pass over it; what lies between sees that the connection lives."""
HEADERS = {
    "content-type": "text/event-stream; charset=utf-8",
    "cache-control": "no-cache",
    "x-accel-buffering": "no",  # nginx would hold the events back
}
NO_MORE_HEADERS: Mapping[str, str] = {}


def frame(data: Any, *, event: str | None = None, event_id: str | None = None) -> bytes:
    """One event whose data is JSON, in ASCII: ZhipuAI's SDKs cut lines at U+2028 and its like, too."""
    named = (f"event: {event}\n" if event else "") + (f"id: {event_id}\n" if event_id else "")
    return f"{named}data: {json.dumps(data, separators=(',', ':'))}\n\n".encode()


class EventStream(fastapi.Response):
    """Sends each of `frames` when the client is ready for more. `left` is called where it leaves before the end."""

    def __init__(
        self,
        frames: AsyncGenerator[bytes],
        *,
        left: Callable[[], Awaitable[None]],
        headers: Mapping[str, str] = NO_MORE_HEADERS,
    ) -> None:
        self.status_code = 200
        self.background = None
        self._frames = frames
        self._left = left
        self.init_headers({**HEADERS, **headers})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 - ASGI
        sending = asyncio.create_task(self._send_all(send))
        leaving = asyncio.create_task(_gone(receive))
        try:
            await asyncio.wait((sending, leaving), return_when=asyncio.FIRST_COMPLETED)
            if sending.done():
                sending.result()
            else:
                await self._left()
        finally:
            leaving.cancel()
            sending.cancel()
            await asyncio.gather(sending, leaving, return_exceptions=True)
            await self._frames.aclose()

    async def _send_all(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        async for part in self._frames:
            if part:
                await send({"type": "http.response.body", "body": part, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
