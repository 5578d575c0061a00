"""A TCP proxy between Tollgate and a server, which cuts: the network's part in an outage."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import Coroutine
from typing import Any

PIECE = 64 * 1024


class Proxy:
    """On a port of its own, in a thread of its own, in front of `port` of this machine."""

    def __init__(self, port: int) -> None:
        self._target = port
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=512)
        self.port = int(self._listener.getsockname()[1])
        self._loop = asyncio.new_event_loop()
        self._writers: set[asyncio.StreamWriter] = set()
        self._flows = asyncio.Event()
        self._refuses = False
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)

    def start(self) -> None:
        self._thread.start()
        self._do(self._open())

    def drop(self) -> None:
        """Break every connection there is. New ones are let through."""
        self._do(self._drop())

    def cut(self) -> None:
        """Break every connection, also each new one, until `heal`."""
        self._refuses = True
        self.drop()

    def hang(self) -> None:
        """Nothing passes until `heal`; no connection breaks."""
        self._loop.call_soon_threadsafe(self._flows.clear)

    def heal(self) -> None:
        self._refuses = False
        self._loop.call_soon_threadsafe(self._flows.set)

    def stop(self) -> None:
        self.cut()
        self._do(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _do(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(10)

    async def _open(self) -> None:
        self._flows.set()
        self._server = await asyncio.start_server(self._serve, sock=self._listener)

    async def _close(self) -> None:
        self._server.close()
        self._flows.set()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    async def _drop(self) -> None:
        for writer in list(self._writers):
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._refuses:
            return writer.transport.abort()
        try:
            target_reader, target = await asyncio.open_connection("127.0.0.1", self._target)
        except OSError:
            return writer.transport.abort()
        self._writers |= {writer, target}
        try:
            await asyncio.gather(self._pump(reader, target), self._pump(target_reader, writer))
        finally:
            self._writers -= {writer, target}
            writer.transport.abort()
            target.transport.abort()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while piece := await reader.read(PIECE):
                await self._flows.wait()
                writer.write(piece)
                await writer.drain()
        writer.close()
