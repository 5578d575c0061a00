"""The event bus: short notices between processes, in no order and with no promise.

Channels: "ended" (ids of tasks that ended, to whoever waits) and "cancel" (ids whose running is to
stop, to workers). A lost notice costs seconds: waiters re-read the store, heartbeats bring cancels.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Protocol
from uuid import UUID

import orjson
import redis.asyncio
import redis.exceptions

log = logging.getLogger("tollgate.bus")

ENDED = "ended"
CANCEL = "cancel"
Handler = Callable[[list[UUID]], None]

RECONNECT_S = 2.0
TIMEOUT_S = 1.0
CHANNEL_PREFIX = "tollgate:"


class Bus(Protocol):
    """Both buses. Handlers are called on the loop and must not block."""

    def subscribe(self, channel: str, handler: Handler) -> None:
        """Before `start`."""

    async def start(self) -> None: ...

    async def publish(self, channel: str, ids: Iterable[UUID]) -> None:
        """Never raises for a bus that is away."""

    async def ping(self) -> None:
        """Raises ConnectionError where notices cannot pass."""

    async def close(self) -> None: ...


class MemoryBus:
    """Within one process and one loop: the embedded mode."""

    def __init__(self) -> None:
        self._handlers: defaultdict[str, list[Handler]] = defaultdict(list)

    def subscribe(self, channel: str, handler: Handler) -> None:
        self._handlers[channel].append(handler)

    async def start(self) -> None:
        pass

    async def publish(self, channel: str, ids: Iterable[UUID]) -> None:
        given = list(ids)
        for handler in self._handlers[channel]:
            asyncio.get_running_loop().call_soon(handler, given)

    async def ping(self) -> None:
        pass

    async def close(self) -> None:
        self._handlers.clear()


class RedisBus:
    """Redis publish/subscribe: one listening connection a process, reconnected every RECONNECT_S."""

    def __init__(self, url: str) -> None:
        self._client = redis.asyncio.Redis.from_url(
            url, socket_connect_timeout=TIMEOUT_S, socket_timeout=None, health_check_interval=10
        )
        self._sender = redis.asyncio.Redis.from_url(url, socket_connect_timeout=TIMEOUT_S, socket_timeout=TIMEOUT_S)
        self._handlers: defaultdict[str, list[Handler]] = defaultdict(list)
        self._listening: asyncio.Task[None] | None = None
        self._subscribed = asyncio.Event()
        self._failing = False

    def subscribe(self, channel: str, handler: Handler) -> None:
        self._handlers[CHANNEL_PREFIX + channel].append(handler)

    async def start(self) -> None:
        """Returns when subscribed, or after RECONNECT_S without: the bus may come later."""
        if self._handlers:
            self._listening = asyncio.create_task(self._listen(), name="bus")
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._subscribed.wait(), RECONNECT_S)

    async def publish(self, channel: str, ids: Iterable[UUID]) -> None:
        payload = orjson.dumps([str(i) for i in ids])
        try:
            await self._sender.publish(CHANNEL_PREFIX + channel, payload)
        except (redis.exceptions.RedisError, OSError) as error:
            self._note_failure(error)

    async def ping(self) -> None:
        try:
            await self._sender.ping()
        except (redis.exceptions.RedisError, OSError) as error:
            raise ConnectionError(str(error)) from error

    async def close(self) -> None:
        if self._listening is not None:
            self._listening.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._listening
        await self._client.aclose()
        await self._sender.aclose()

    async def _listen(self) -> None:
        while True:
            try:
                async with self._client.pubsub(ignore_subscribe_messages=False) as pubsub:
                    await pubsub.subscribe(*self._handlers)
                    async for message in pubsub.listen():
                        self._received(message)
            except (redis.exceptions.RedisError, OSError) as error:
                self._note_failure(error)
                await asyncio.sleep(RECONNECT_S)

    def _received(self, message: dict[str, object]) -> None:
        if message["type"] == "subscribe":
            self._failing = False
            self._subscribed.set()
        elif message["type"] == "message":
            channel, data = message["channel"], message["data"]
            if not isinstance(channel, bytes) or not isinstance(data, bytes):
                return
            ids = [UUID(text) for text in orjson.loads(data)]
            for handler in self._handlers[channel.decode()]:
                handler(ids)

    def _note_failure(self, error: Exception) -> None:
        if not self._failing:
            log.warning("event bus unreachable, waiting falls back to the database", extra={"error": repr(error)})
        self._failing = True


def open_bus(redis_url: str | None) -> Bus:
    """The bus of the settings: Redis where there is one, else this process."""
    return RedisBus(redis_url) if redis_url else MemoryBus()
