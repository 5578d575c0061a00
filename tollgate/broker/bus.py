"""The event bus: short notices between processes, in no order and with no promise.

Channels of ids: "ended" (tasks that ended, to whoever waits), "cancel" (whose running is to stop, to workers) and
"retell" (whose streams are to be told whole, to workers). Each streamed task has a channel of its own, for what its
model writes. A lost notice costs seconds: waiters re-read the store, heartbeats bring cancels, and a reader of a stream
that misses something asks for the whole, as does everyone whose connection was made anew.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
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
RETELL = "retell"
Handler = Callable[[list[UUID]], None]
Listener = Callable[[bytes], None]

RECONNECT_S = 2.0
TIMEOUT_S = 1.0
CANCEL_EVERY_S = 0.1
SILENCE_S = 5.0
"""A listener that heard nothing for so long asks, and for twice as long hangs up: a connection that was cut
without a word would be listened to for ever."""


class Bus(Protocol):
    """Both buses. Handlers are called on the loop and must not block."""

    def subscribe(self, channel: str, handler: Handler) -> None:
        """To ids. Before `start`."""

    def on_resume(self, handler: Callable[[], None]) -> None:
        """Called whenever it listens anew: what was sent meanwhile is lost. Before `start`."""

    async def start(self) -> None: ...

    async def publish(self, channel: str, ids: Iterable[UUID]) -> None:
        """Never raises for a bus that is away."""

    async def listen(self, channel: str, listener: Listener) -> None:
        """To bytes, from now on: one listener a channel. Never raises for a bus that is away: it listens once it is
        back."""

    async def unlisten(self, channel: str) -> None: ...

    async def send(self, messages: Sequence[tuple[str, bytes]]) -> None:
        """Each to the listeners of its channel, all in one round trip. Never raises for a bus that is away."""

    async def ping(self) -> None:
        """Raises ConnectionError where notices cannot pass."""

    async def close(self) -> None: ...


class MemoryBus:
    """Within one process and one loop: the embedded mode."""

    def __init__(self) -> None:
        self._handlers: defaultdict[str, list[Handler]] = defaultdict(list)
        self._listeners: dict[str, Listener] = {}

    def subscribe(self, channel: str, handler: Handler) -> None:
        self._handlers[channel].append(handler)

    def on_resume(self, handler: Callable[[], None]) -> None:
        pass

    async def start(self) -> None:
        pass

    async def listen(self, channel: str, listener: Listener) -> None:
        self._listeners[channel] = listener

    async def unlisten(self, channel: str) -> None:
        self._listeners.pop(channel, None)

    async def send(self, messages: Sequence[tuple[str, bytes]]) -> None:
        for channel, payload in messages:
            if listener := self._listeners.get(channel):
                listener(payload)

    async def publish(self, channel: str, ids: Iterable[UUID]) -> None:
        given = list(ids)
        for handler in self._handlers[channel]:
            asyncio.get_running_loop().call_soon(handler, given)

    async def ping(self) -> None:
        pass

    async def close(self) -> None:
        self._handlers.clear()


class RedisBus:
    """Redis publish/subscribe: one listening connection a process, reconnected every RECONNECT_S.

    The channels carry the number of the database: Redis passes notices of one to subscribers of all, and two
    installations on one server would hear each other's."""

    def __init__(self, url: str) -> None:
        self._listener = redis_client(url)
        self._sender = redis_client(url)
        self._prefix = f"tollgate:{self._sender.connection_pool.connection_kwargs.get('db') or 0}:"
        self._handlers: defaultdict[str, list[Handler]] = defaultdict(list)
        self._listeners: dict[str, Listener] = {}
        self._on_resume: list[Callable[[], None]] = []
        self._pubsub: PubSub | None = None
        self._listening: asyncio.Task[None] | None = None
        self._subscribed = asyncio.Event()
        self._failing = False

    def subscribe(self, channel: str, handler: Handler) -> None:
        self._handlers[self._prefix + channel].append(handler)

    def on_resume(self, handler: Callable[[], None]) -> None:
        self._on_resume.append(handler)

    async def start(self) -> None:
        """Returns when subscribed, or after RECONNECT_S without: the bus may come later."""
        if self._handlers and self._listening is None:
            self._listening = asyncio.create_task(self._listen_forever(), name="bus")
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(RECONNECT_S):
                    await self._subscribed.wait()

    async def publish(self, channel: str, ids: Iterable[UUID]) -> None:
        await self.send([(channel, orjson.dumps([str(i) for i in ids]))])

    async def send(self, messages: Sequence[tuple[str, bytes]]) -> None:
        try:
            if len(messages) == 1:
                await self._sender.publish(self._prefix + messages[0][0], messages[0][1])
            else:
                async with self._sender.pipeline(transaction=False) as pipeline:
                    for channel, payload in messages:
                        pipeline.publish(self._prefix + channel, payload)
                    await pipeline.execute()
        except (redis.exceptions.RedisError, OSError) as error:
            self._note_failure(error)
        else:
            self._failing = False

    async def listen(self, channel: str, listener: Listener) -> None:
        name = self._prefix + channel
        self._listeners[name] = listener
        if self._pubsub is not None:
            with contextlib.suppress(redis.exceptions.RedisError, OSError):  # with its connection anew, by the loop
                await self._pubsub.subscribe(name)

    async def unlisten(self, channel: str) -> None:
        name = self._prefix + channel
        self._listeners.pop(name, None)
        if self._pubsub is not None:
            with contextlib.suppress(redis.exceptions.RedisError, OSError):
                await self._pubsub.unsubscribe(name)
                if name in self._listeners:  # somebody came meanwhile
                    await self._pubsub.subscribe(name)

    async def ping(self) -> None:
        try:
            await self._sender.ping()
        except (redis.exceptions.RedisError, OSError) as error:
            raise ConnectionError(str(error)) from error

    async def close(self) -> None:
        # Redis's client swallows a cancel that comes while it makes its connection anew.
        while self._listening is not None and not self._listening.done():
            self._listening.cancel()
            await asyncio.wait([self._listening], timeout=CANCEL_EVERY_S)
        await self._listener.aclose()
        await self._sender.aclose()

    async def _listen_forever(self) -> None:
        while True:
            try:
                async with self._listener.pubsub() as pubsub:
                    await pubsub.subscribe(*self._handlers, *self._listeners)
                    self._pubsub = pubsub
                    await self._listen(pubsub)
            except (redis.exceptions.RedisError, OSError) as error:
                self._note_failure(error)
            finally:
                self._pubsub = None
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
            self._confirmed(message["channel"].decode())
        elif message["type"] == "message":
            channel = message["channel"].decode()
            if channel not in self._handlers:
                self._tell(channel, message["data"])
                return
            handlers = self._handlers[channel]
            try:
                ids = [UUID(text) for text in orjson.loads(message["data"])]
            except (ValueError, TypeError, AttributeError) as error:  # somebody else's; ours are lists of ids
                log.warning("unreadable notice", extra={"error": repr(error)})
                return
            for handler in handlers:
                handler(ids)

    def _confirmed(self, channel: str) -> None:
        """All channels are subscribed to in one command, so with the first all are. Redis's client may have made the
        connection anew by itself."""
        if channel == next(iter(self._handlers)):
            self._failing = False
            self._subscribed.set()
            for handler in self._on_resume:
                handler()

    def _tell(self, channel: str, payload: bytes) -> None:
        """One listener that breaks must not deafen all the others, and every handler with them."""
        if listener := self._listeners.get(channel):
            try:
                listener(payload)
            except Exception:
                log.exception("a listener broke")

    def _note_failure(self, error: Exception) -> None:
        if not self._failing:
            log.warning("event bus unreachable, waiting falls back to the database", extra={"error": repr(error)})
        self._failing = True


def redis_client(url: str, *, timeout_s: float = TIMEOUT_S) -> redis.asyncio.Redis:
    """One more try at once, since a connection may have died of age, and none after a timeout: by itself
    Redis's client would try for seconds."""
    retry = Retry(NoBackoff(), 1, supported_errors=(redis.exceptions.ConnectionError,))
    return redis.asyncio.Redis.from_url(url, socket_connect_timeout=timeout_s, socket_timeout=timeout_s, retry=retry)


def open_bus(redis_url: str | None) -> Bus:
    """The bus of the settings: Redis where there is one, else this process."""
    return RedisBus(redis_url) if redis_url else MemoryBus()
