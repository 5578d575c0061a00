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
from typing import Any, Protocol
from uuid import UUID

import orjson
import redis.asyncio
import redis.exceptions
from redis.asyncio.client import PubSub
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

log = logging.getLogger("tollgate.bus")

ENDED = "ended"
CANCEL = "cancel"
Handler = Callable[[list[UUID]], None]

RECONNECT_S = 2.0
TIMEOUT_S = 1.0
SILENCE_S = 5.0
"""A listener that heard nothing for so long asks, and for twice as long hangs up: a connection that was cut
without a word would be listened to for ever."""
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
        self._listener = _client(url)
        self._sender = _client(url)
        self._handlers: defaultdict[str, list[Handler]] = defaultdict(list)
        self._listening: asyncio.Task[None] | None = None
        self._subscribed = asyncio.Event()
        self._failing = False

    def subscribe(self, channel: str, handler: Handler) -> None:
        self._handlers[CHANNEL_PREFIX + channel].append(handler)

    async def start(self) -> None:
        """Returns when subscribed, or after RECONNECT_S without: the bus may come later."""
        if self._handlers and self._listening is None:
            self._listening = asyncio.create_task(self._listen_forever(), name="bus")
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._subscribed.wait(), RECONNECT_S)

    async def publish(self, channel: str, ids: Iterable[UUID]) -> None:
        payload = orjson.dumps([str(i) for i in ids])
        try:
            await self._sender.publish(CHANNEL_PREFIX + channel, payload)
        except (redis.exceptions.RedisError, OSError) as error:
            self._note_failure(error)
        else:
            self._failing = False

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
        await self._listener.aclose()
        await self._sender.aclose()

    async def _listen_forever(self) -> None:
        while True:
            try:
                async with self._listener.pubsub() as pubsub:
                    await pubsub.subscribe(*self._handlers)
                    await self._listen(pubsub)
            except (redis.exceptions.RedisError, OSError) as error:
                self._note_failure(error)
            await asyncio.sleep(RECONNECT_S)

    async def _listen(self, pubsub: PubSub) -> None:
        asked = False
        while True:
            message = await pubsub.get_message(timeout=SILENCE_S)
            if message is not None:
                asked = False
                self._received(message)
            elif asked:
                raise ConnectionError(f"no sign of life for {2 * SILENCE_S:.0f} s")
            else:
                asked = True
                await pubsub.ping()

    def _received(self, message: dict[str, Any]) -> None:
        if message["type"] == "subscribe":
            self._failing = False
            self._subscribed.set()
        elif message["type"] == "message":
            handlers = self._handlers[message["channel"].decode()]
            try:
                ids = [UUID(text) for text in orjson.loads(message["data"])]
            except (ValueError, TypeError, AttributeError) as error:  # somebody else's; ours are lists of ids
                log.warning("unreadable notice", extra={"error": repr(error)})
                return
            for handler in handlers:
                handler(ids)

    def _note_failure(self, error: Exception) -> None:
        if not self._failing:
            log.warning("event bus unreachable, waiting falls back to the database", extra={"error": repr(error)})
        self._failing = True


def _client(url: str) -> redis.asyncio.Redis:
    """One more try at once, since a connection may have died of age, and none after a timeout: by itself
    Redis's client would try for seconds."""
    retry = Retry(NoBackoff(), 1, supported_errors=(redis.exceptions.ConnectionError,))
    return redis.asyncio.Redis.from_url(url, socket_connect_timeout=TIMEOUT_S, socket_timeout=TIMEOUT_S, retry=retry)


def open_bus(redis_url: str | None) -> Bus:
    """The bus of the settings: Redis where there is one, else this process."""
    return RedisBus(redis_url) if redis_url else MemoryBus()
