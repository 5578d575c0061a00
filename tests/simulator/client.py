"""A plain aiohttp client of the simulator, for tests."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import orjson

from tollgate.simulator import Simulator

KEY = "tester.secret"
LIMIT_S = 30.0
"""No test waits longer for anything."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """A whole answer. `body` is the parsed JSON, or None."""

    status: int
    headers: dict[str, str]
    raw: bytes
    body: Any = field(default=None)

    @property
    def text(self) -> str:
        """The content of the first choice."""
        return str(self.body["choices"][0]["message"]["content"])

    @property
    def code(self) -> str:
        """The business code."""
        return str(self.body["error"]["code"])


@dataclass(frozen=True, slots=True, kw_only=True)
class Client:
    simulator: Simulator
    session: aiohttp.ClientSession

    async def send(
        self, method: str, path: str, *, body: object = None, key: str | None = KEY, raw: bytes | None = None
    ) -> Reply:
        """One request under the v4 root, or under the origin if `path` starts with /simulator."""
        origin = self.simulator.origin if path.startswith("/simulator") else self.simulator.base_url
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        data = raw if raw is not None else (orjson.dumps(body) if body is not None else None)
        async with self.session.request(method, origin + path, data=data, headers=headers) as response:
            got = await response.read()
            return Reply(status=response.status, headers=dict(response.headers), raw=got, body=_parsed(got))

    async def chat(self, prompt: str = "hello there", **fields: Any) -> Reply:
        return await self.send("POST", "/chat/completions", body=chat_body(prompt, **fields))

    async def submit(self, prompt: str = "hello there", **fields: Any) -> Reply:
        return await self.send("POST", "/async/chat/completions", body=chat_body(prompt, **fields))

    async def result(self, identifier: str) -> Reply:
        return await self.send("GET", f"/async-result/{identifier}")


Start = Callable[..., Awaitable[Client]]


def chat_body(prompt: str = "hello there", **fields: Any) -> dict[str, object]:
    return {"model": "glm-4.7", "messages": [{"role": "user", "content": prompt}], **fields}


def frames(raw: bytes) -> list[str]:
    """The data of each SSE frame."""
    return [frame.removeprefix("data: ") for frame in raw.decode().split("\n\n") if frame]


def _parsed(raw: bytes) -> Any:
    try:
        return orjson.loads(raw)
    except orjson.JSONDecodeError:
        return None
