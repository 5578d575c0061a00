"""Where rates are counted: on Redis, one count for all gateways, or in this process.

A Redis that is away, or hangs, refuses and delays nobody for long: this process then counts for itself, and asks Redis
again after a while. What is counted twice or not at all meanwhile is a rate, not money. A flushed Redis forgets a
minute.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import redis.asyncio
import redis.exceptions

from tollgate.broker.bus import redis_client
from tollgate.domain import rates
from tollgate.domain.rates import WINDOW_S, Asked, Taken, Window

log = logging.getLogger("tollgate.rates")

TIMEOUT_S = 0.25
"""For all that is asked at once."""
AGAIN_S = 5.0
"""From an answer that did not come to the next try: meanwhile nobody waits for one."""
MAX_KEPT = 10_000
"""Windows in this process before those that count nothing are dropped."""
SCRIPT = """
local clock = redis.call('TIME')
local now = tonumber(ARGV[1]) or clock[1] + clock[2] / 1000000
local second, kept = math.floor(now), tonumber(ARGV[2])
local fits, windows = 1, {}
for i, key in ipairs(KEYS) do
    local limit, asked, used, window = tonumber(ARGV[2 * i + 1]), tonumber(ARGV[2 * i + 2]), 0, {}
    local stored = redis.call('HGETALL', key)
    for j = 1, #stored, 2 do
        if tonumber(stored[j]) + kept < second then
            redis.call('HDEL', key, stored[j])
        else
            used = used + stored[j + 1]
            window[#window + 1] = tonumber(stored[j])
            window[#window + 1] = tonumber(stored[j + 1])
        end
    end
    if asked > 0 and used + asked > limit then fits = 0 end
    windows[i] = window
end
for i, key in ipairs(KEYS) do
    local asked = tonumber(ARGV[2 * i + 2])
    if fits == 1 and asked > 0 then
        redis.call('HINCRBY', key, second, asked)
        redis.call('EXPIRE', key, kept + 2)
    end
end
return {fits, string.format('%.6f', now), windows}
"""
"""`domain.rates.take`, where all gateways' requests come one after the other. Answers the windows as they were before.
Time is the server's own: gateways' clocks differ."""
SHA = hashlib.sha1(SCRIPT.encode(), usedforsecurity=False).hexdigest()


class Rates(Protocol):
    """Both."""

    async def take(self, asked: Sequence[Asked]) -> Sequence[Taken]:
        """What came of each, in order. Never raises for a Redis that is away."""

    async def close(self) -> None: ...


class MemoryRates:
    """Within one process: the embedded mode, and while Redis is away. `clock` is in seconds, and never goes back."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._windows: dict[tuple[str, str], Window] = {}

    async def take(self, asked: Sequence[Asked]) -> Sequence[Taken]:
        return [self._take(one) for one in asked]

    async def close(self) -> None:
        self._windows.clear()

    def _take(self, asked: Asked) -> Taken:
        names = [(asked.key_id, rate.kind) for rate in asked.rates]
        taken = rates.take(asked, [self._windows.get(name, {}) for name in names], now_s=self._clock())
        if len(self._windows) >= MAX_KEPT:
            self._drop_old(taken.now_s)
        self._windows.update(zip(names, taken.windows, strict=True))
        return taken

    def _drop_old(self, now_s: float) -> None:
        self._windows = {name: w for name, w in self._windows.items() if w and rates.reset_s(w, now_s=now_s) > 0}


class RedisRates:
    """Of all gateways on one Redis. `clock`, in Unix seconds, stands in for the server's own."""

    def __init__(
        self,
        url: str,
        *,
        timeout_s: float = TIMEOUT_S,
        again_s: float = AGAIN_S,
        clock: Callable[[], float] | None = None,
    ) -> None:
        self._redis = redis_client(url, timeout_s=timeout_s)
        self._timeout_s = timeout_s
        self._again_s = again_s
        self._clock = clock
        self._own = MemoryRates()
        self._away_until_s = float("-inf")
        self._failing = False

    async def take(self, asked: Sequence[Asked]) -> Sequence[Taken]:
        if time.monotonic() < self._away_until_s:
            return await self._own.take(asked)
        try:
            async with asyncio.timeout(self._timeout_s):
                answers = await self._ask(asked)
        except (redis.exceptions.RedisError, OSError, TimeoutError) as error:
            self._note_failure(error)
            return await self._own.take(asked)
        if self._failing:
            self._failing = False
            log.info("rates are counted on Redis again")
        return [_taken(one, answer) for one, answer in zip(asked, answers, strict=True)]

    async def close(self) -> None:
        await self._redis.aclose()

    async def _ask(self, asked: Sequence[Asked]) -> list[Any]:
        try:
            return await self._send(asked)
        except redis.exceptions.NoScriptError:  # nobody asked this server since it started
            await self._redis.script_load(SCRIPT)
            return await self._send(asked)

    async def _send(self, asked: Sequence[Asked]) -> list[Any]:
        now = "" if self._clock is None else repr(self._clock())
        async with self._redis.pipeline(transaction=False) as pipeline:
            for one in asked:
                names = [f"tollgate:rate:{{{one.key_id}}}:{rate.kind}" for rate in one.rates]
                numbers = [number for rate in one.rates for number in (rate.limit, rate.asked)]
                pipeline.evalsha(SHA, len(names), *names, now, WINDOW_S, *numbers)
            answers: list[Any] = await pipeline.execute()
        return answers

    def _note_failure(self, error: Exception) -> None:
        self._away_until_s = time.monotonic() + self._again_s
        if not self._failing:
            told = {"error": repr(error)}
            log.warning("Redis does not answer, each gateway counts the rates of keys for itself", extra=told)
        self._failing = True


def _taken(asked: Asked, answer: Any) -> Taken:
    fits, now, flat = answer
    now_s, second = float(now), int(float(now))
    windows = [dict(zip(pairs[::2], pairs[1::2], strict=True)) for pairs in flat]
    if fits:
        for rate, window in zip(asked.rates, windows, strict=True):
            if rate.asked:
                window[second] = window.get(second, 0) + rate.asked
    return Taken(fits=bool(fits), now_s=now_s, windows=tuple(windows))


def open_rates(redis_url: str | None) -> Rates:
    """The rates of the settings: on Redis where there is one, else in this process."""
    return RedisRates(redis_url) if redis_url else MemoryRates()
