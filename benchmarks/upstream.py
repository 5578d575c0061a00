"""An instant upstream: answers every POST with one finished chat completion, in 20 us of CPU.

    python -m benchmarks.upstream        prints its address

Where the speed of the gateway is measured end to end, the simulator's own 150 us a call (it counts tokens, bills and
keeps) would be a quarter of what is measured, on the same two cores.
"""

from __future__ import annotations

import asyncio
import re
from typing import cast

import orjson
import uvloop

ANSWER = orjson.dumps(
    {
        "id": "instant",
        "created": 1_760_000_000,
        "model": "glm-4-air",
        "choices": [
            {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "positive, " * 12}}
        ],
        "usage": {"prompt_tokens": 28, "completion_tokens": 36, "total_tokens": 64},
    }
)
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(ANSWER)
LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)\r\n", re.IGNORECASE)
END = b"\r\n\r\n"


class Instant(asyncio.Protocol):
    """HTTP/1.1 as far as a client of ours speaks it: keep-alive, bodies with a Content-Length."""

    def __init__(self) -> None:
        self._got = b""
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is none by inheritance

    def data_received(self, data: bytes) -> None:
        self._got += data
        while (head := self._got.find(END)) >= 0:
            length = LENGTH.search(self._got, 0, head + 2)
            end = head + len(END) + (int(length[1]) if length else 0)
            if len(self._got) < end:
                return
            self._got = self._got[end:]
            if self._transport is not None:
                self._transport.write(HEAD + ANSWER)


async def _serve() -> None:
    server = await asyncio.get_running_loop().create_server(Instant, "127.0.0.1", 0, backlog=4096)
    print("the instant upstream serves on http://{}:{}".format(*server.sockets[0].getsockname()[:2]), flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(_serve())
