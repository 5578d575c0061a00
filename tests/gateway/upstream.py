"""An upstream that keeps what it is sent, and one that streams what the test says, when it says it."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from tests.gateway.gate import ANSWER


@dataclass(kw_only=True)
class Upstream:
    """Answers ANSWER, or `answer` with `status`, to whatever comes."""

    base_url: str = ""
    answer: str = ANSWER
    status: int = 200
    bodies: list[dict[str, Any]] = field(default_factory=list)

    async def receive(self, request: web.Request) -> web.Response:
        self.bodies.append(json.loads(await request.read()))
        return web.Response(text=self.answer, status=self.status, content_type="application/json")


@dataclass(kw_only=True)
class Dictated:
    """Streams to whoever asked last."""

    base_url: str = ""
    said: asyncio.Queue[str | None] = field(default_factory=asyncio.Queue)

    def say(self, text: str) -> None:
        self.said.put_nowait(text)

    def end(self) -> None:
        self.said.put_nowait(None)

    async def receive(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        while (text := await self.said.get()) is not None:
            await self._write(response, {"delta": {"content": text}})
        await self._write(response, {"delta": {}, "finish_reason": "stop"})
        await response.write(b"data: [DONE]\n\n")
        return response

    async def _write(self, response: web.StreamResponse, choice: dict[str, Any]) -> None:
        usage = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
        chunk = {"id": "8000", "model": "glm-4.7", "choices": [{"index": 0, **choice}], "usage": usage}
        await response.write(f"data: {json.dumps(chunk)}\n\n".encode())


@contextlib.asynccontextmanager
async def listening(receive: Callable[[web.Request], Awaitable[web.StreamResponse]]) -> AsyncIterator[str]:
    """The base URL of a server whose completions `receive` answers, on a free port."""
    app = web.Application()
    app.router.add_post("/chat/completions", receive)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()
