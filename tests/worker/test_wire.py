"""The moment from which a call may be billed: nothing of its body leaves before that is told, nor if it is refused."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import aiohttp
import pytest

from tests.garbage import nothing_left
from tollgate.domain.errors import UpstreamError
from tollgate.domain.routing import UpstreamSpec
from worker.upstreams import wire
from worker.upstreams.wire import Wire

ANSWER = b'{"id": "1"}'


class Listener:
    """An upstream that answers every request, and keeps what came."""

    def __init__(self, *, promised: int = len(ANSWER), then_closes: bool = False) -> None:
        self.got = b""
        self._promised = promised
        self._then_closes = then_closes
        self.writers: list[asyncio.StreamWriter] = []

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writers.append(writer)
        while part := await reader.read(65_536):
            self.got += part
            if self.got.endswith(b"}"):
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (self._promised, ANSWER))
                if self._then_closes:
                    break
        writer.close()


async def post(listener: Listener, on_sent: Callable[[], None], *, timeout_s: float = 10) -> tuple[int, Any, str]:
    server = await asyncio.start_server(listener, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    wire = Wire(UpstreamSpec(name="u", kind="openai"), base_url=f"http://127.0.0.1:{port}")
    try:
        return await wire.post("/x", b'{"secret": 1}', headers={}, timeout_s=timeout_s, on_sent=on_sent)
    finally:
        await wire.close()
        server.close()
        for writer in listener.writers:  # the loop may end before its reader has seen the end
            writer.close()
        await asyncio.sleep(0)


async def test_it_is_told_once_before_the_body_has_left() -> None:
    listener = Listener()
    left_by_then: list[bytes] = []
    assert await post(listener, lambda: left_by_then.append(listener.got)) == (200, {"id": "1"}, ANSWER.decode())
    assert len(left_by_then) == 1
    assert b"secret" not in left_by_then[0]
    assert listener.got.count(b"secret") == 1


async def test_who_refuses_then_is_heard_in_his_own_words_and_nothing_is_sent() -> None:
    listener = Listener()

    def refuse() -> None:
        raise UpstreamError("the lease ran out before the call was sent", kind="connect")

    with pytest.raises(UpstreamError, match="the lease ran out") as raised:
        await post(listener, refuse)
    assert raised.value.kind == "connect"
    assert b"secret" not in listener.got


@pytest.mark.parametrize(("then_closes", "timeout_s", "kind"), [(True, 10, "cut"), (False, 0.2, "timeout")])
async def test_what_was_asked_and_answered_goes_with_a_call_that_broke(
    then_closes: bool, timeout_s: float, kind: str
) -> None:
    """Without the collector, which comes seldom."""

    async def broken() -> str | None:
        try:  # pytest.raises would keep the frames
            await post(Listener(promised=100, then_closes=then_closes), lambda: None, timeout_s=timeout_s)
        except UpstreamError as error:
            return error.kind
        return None

    with nothing_left(aiohttp.ClientResponse):
        assert await broken() == kind


def test_causes_in_a_ring_are_forgotten_too() -> None:
    one, other = OSError("one"), OSError("other")
    one.__cause__, other.__cause__ = other, one
    with pytest.raises(UpstreamError, match="broke"), wire._Translated():
        raise one
