"""A tiny upstream that answers by script and keeps what it was asked, for what the simulator does not show."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import orjson
from aiohttp import web
from multidict import CIMultiDictProxy


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """One request as it came."""

    path: str
    headers: CIMultiDictProxy[str]
    body: dict[str, Any]


class Scripted:
    """Gives the next of `answers` to each POST, the last one for ever. `gate` holds every answer until it is set."""

    def __init__(self, *answers: Callable[[], web.Response]) -> None:
        self._answers = self._in_turn(answers)
        self._runner: web.AppRunner | None = None
        self.asked: list[Asked] = []
        self.arrived = asyncio.Event()
        self.gate = asyncio.Event()
        self.gate.set()
        self.base_url = ""

    async def __aenter__(self) -> Scripted:
        app = web.Application()
        app.router.add_post("/{path:.*}", self._answer)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.base_url = f"http://127.0.0.1:{self._runner.addresses[0][1]}/v1"
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.gate.set()
        if self._runner is not None:
            await self._runner.cleanup()

    async def _answer(self, request: web.Request) -> web.Response:
        self.asked.append(Asked(path=request.path, headers=request.headers, body=orjson.loads(await request.read())))
        self.arrived.set()
        await self.gate.wait()
        return next(self._answers)()

    @staticmethod
    def _in_turn(answers: tuple[Callable[[], web.Response], ...]) -> Iterator[Callable[[], web.Response]]:
        yield from answers
        while True:
            yield answers[-1]


def says(text: str = "four", *, usage: object = None, status: int = 200, **headers: str) -> Callable[[], web.Response]:
    """A completion; `usage` None is left out."""
    body: dict[str, Any] = {
        "id": "c-1",
        "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}],
    }
    if usage is not None:
        body["usage"] = usage
    return lambda: web.json_response(body, status=status, headers=headers)


def refuses(status: int, code: str | None = None, message: str = "no", **headers: str) -> Callable[[], web.Response]:
    """An error, with a business code if one is given."""
    error = {"message": message} | ({"code": code} if code else {})
    return lambda: web.json_response({"error": error}, status=status, headers=headers)
