"""A receiver of webhooks that keeps what it is sent, and checks it as any receiver would."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web
from standardwebhooks import Webhook


@dataclass(frozen=True, slots=True, kw_only=True)
class Received:
    """One POST."""

    path: str
    headers: dict[str, str]
    body: str

    @property
    def id(self) -> str:
        return self.headers["webhook-id"]

    @property
    def told(self) -> Any:
        return json.loads(self.body)

    def verified(self, secret: str) -> Any:
        """The body. Raises WebhookVerificationError."""
        return Webhook(secret).verify(self.body, self.headers)


@dataclass(kw_only=True)
class Receiver:
    """Answers `status`, with `headers` and `text`, once `gate` is open."""

    url: str = ""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    text: str = "thanks"
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    received: list[Received] = field(default_factory=list)
    arrived: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(0))

    async def receive(self, request: web.Request) -> web.Response:
        headers = {name.lower(): value for name, value in request.headers.items()}
        self.received.append(Received(path=request.path, headers=headers, body=await request.text()))
        self.arrived.release()
        await self.gate.wait()
        return web.Response(status=self.status, headers=self.headers, text=self.text)


@contextlib.asynccontextmanager
async def receiving(host: str = "127.0.0.1") -> AsyncIterator[Receiver]:
    """On a free port of `host`, answering at once."""
    receiver = Receiver()
    receiver.gate.set()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", receiver.receive)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, host, 0).start()
        receiver.url = f"http://{host}:{runner.addresses[0][1]}"
        yield receiver
    finally:
        receiver.gate.set()
        await runner.cleanup()


@contextlib.asynccontextmanager
async def talking(answer: str, *, hangs_up: bool = False) -> AsyncIterator[tuple[str, asyncio.Event]]:
    """Its URL, and what is set when a client hangs up. It says `answer` to a request, and no more."""
    left = asyncio.Event()

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        await reader.readexactly(int(head.partition("content-length:")[2].partition("\r\n")[0]))
        writer.write(answer.encode())
        if hangs_up:
            writer.write_eof()
        with contextlib.suppress(ConnectionError):
            await reader.read()
        left.set()
        writer.close()

    async with await asyncio.start_server(talk, "127.0.0.1", 0) as server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", left
