"""A tiny submit-and-poll upstream that answers by script and keeps what it was asked, for what the simulator does
not show. A script is a function of the request's turn, from 1 on; None cuts the connection."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType

import orjson
from aiohttp import web

from tests.worker.scripted import refuses

Submit = Callable[[int], web.Response | None]
Poll = Callable[[str], web.Response | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sent:
    """One submit, or one direct call."""

    key: str
    request_id: str


class AsyncCloud:
    """`submit` answers POSTs, direct calls too; `poll` answers GETs of an id. `gate` holds every submit's answer, and
    `poll_gate` every poll's, until it is set."""

    def __init__(self, submit: Submit, poll: Poll) -> None:
        self._submit = submit
        self._poll = poll
        self._runner: web.AppRunner | None = None
        self.sent: list[Sent] = []
        self.polled: list[str] = []
        self.arrived = asyncio.Event()
        self.gate = asyncio.Event()
        self.poll_gate = asyncio.Event()
        self.gate.set()
        self.poll_gate.set()
        self.base_url = ""

    async def __aenter__(self) -> AsyncCloud:
        app = web.Application()
        app.router.add_post("/v1/async/chat/completions", self._on_post)
        app.router.add_post("/v1/chat/completions", self._on_post)
        app.router.add_get("/{path:.*}", self._on_poll)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.base_url = f"http://127.0.0.1:{self._runner.addresses[0][1]}/v1"
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.gate.set()
        self.poll_gate.set()
        if self._runner is not None:
            await self._runner.cleanup()

    async def _on_post(self, request: web.Request) -> web.Response:
        body = orjson.loads(await request.read())
        self.sent.append(Sent(key=request.headers["Authorization"], request_id=body.get("request_id", "")))
        turn = len(self.sent)
        self.arrived.set()
        await self.gate.wait()
        return _or_cut(request, self._submit(turn))

    async def _on_poll(self, request: web.Request) -> web.Response:
        upstream_id = request.path.rpartition("/")[2]
        self.polled.append(upstream_id)
        await self.poll_gate.wait()
        return _or_cut(request, self._poll(upstream_id))


def _or_cut(request: web.Request, answer: web.Response | None) -> web.Response:
    if answer is None and request.transport is not None:
        request.transport.abort()
    return answer or web.Response()


def takes(upstream_id: str) -> web.Response:
    """A submit's answer: the call is there, under this id."""
    return web.json_response({"id": upstream_id, "task_status": "PROCESSING"})


def done() -> web.Response:
    """A poll's answer: the call ended well."""
    message = {"role": "assistant", "content": "four"}
    return web.json_response(
        {
            "task_status": "SUCCESS",
            "choices": [{"index": 0, "finish_reason": "stop", "message": message}],
            "usage": {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15},
        }
    )


def fails(code: str) -> web.Response:
    """A poll's answer: the call ended there with this code."""
    return web.json_response({"task_status": "FAIL", "error": {"code": code, "message": "no"}})


def unreadable() -> web.Response:
    """A poll's answer with HTTP 200 that holds nothing."""
    return web.json_response({"task_status": "SUCCESS", "choices": []})


def refused(status: int, code: str) -> web.Response:
    return refuses(status, code)()


def numbered(turn: int) -> web.Response:
    return takes(f"t-{turn}")


def always_done(upstream_id: str) -> web.Response:
    return done()
