"""An upstream that keeps what it is sent."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
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


async def serve_upstream() -> AsyncIterator[Upstream]:
    """On a free port, until the generator is closed."""
    upstream = Upstream()
    app = web.Application()
    app.router.add_post("/chat/completions", upstream.receive)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        upstream.base_url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        yield upstream
    finally:
        await runner.cleanup()
