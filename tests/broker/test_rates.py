"""Rates counted in one process, and on a real Redis for several."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import AsyncIterator

import pytest
import redis.asyncio

from tests.broker.private_redis import PrivateRedis
from tollgate.broker.rates import MAX_KEPT, MemoryRates, Rates, RedisRates, open_rates
from tollgate.domain import rates
from tollgate.domain.rates import Asked, KeyLimits

PATIENT_S = 30.0
"""Of what must not fall back to a count of its own because the machine is busy."""
LIMITS = KeyLimits(requests_per_minute=5, tokens_per_minute=100)


class Clock:
    def __init__(self) -> None:
        self.now_s = 1_700_000_000.25

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(params=["memory", "redis"])
async def counted(request: pytest.FixtureRequest, clock: Clock) -> AsyncIterator[Rates]:
    """Of each kind, at the time of the clock."""
    made: Rates = MemoryRates(clock=clock)
    if request.param == "redis":
        made = RedisRates(request.getfixturevalue("redis_url"), timeout_s=PATIENT_S, clock=clock)
    yield made
    await made.close()


def asking(tokens: int = 1, *, key_id: str = "key", limits: KeyLimits = LIMITS) -> Asked:
    return rates.wanted(limits, key_id=key_id, tokens=tokens)


async def take(counted: Rates, *asked: Asked) -> list[bool]:
    return [taken.fits for taken in await counted.take(asked)]


async def test_what_fits_is_counted_until_its_second_is_over_for_a_minute(counted: Rates, clock: Clock) -> None:
    assert await take(counted, *[asking()] * 6) == [True] * 5 + [False]
    clock.now_s += 60.7
    assert await take(counted, asking()) == [False]
    clock.now_s += 0.1
    assert await take(counted, *[asking()] * 6) == [True] * 5 + [False]


async def test_keys_and_limits_are_counted_apart(counted: Rates) -> None:
    assert await take(counted, asking(99), asking(99, key_id="other"), asking(2), asking(1)) == [
        True,
        True,
        False,
        True,
    ]
    assert await take(counted, *[asking(0)] * 4) == [True] * 3 + [False], "what was refused was not counted"


async def test_a_limit_keeps_its_count_when_it_is_changed(counted: Rates) -> None:
    wider = KeyLimits(requests_per_minute=7)
    await take(counted, *[asking()] * 5)
    assert await take(counted, *[asking(limits=wider)] * 3) == [True, True, False]


async def test_both_count_alike(redis_url: str, clock: Clock) -> None:
    """The script on Redis is the domain's rule: the same windows after the same course, also where the clock jumps."""
    chance, memory = random.Random(1), MemoryRates(clock=clock)
    shared = RedisRates(redis_url, timeout_s=PATIENT_S, clock=clock)
    try:
        for _ in range(300):
            clock.now_s += chance.choice((0, 0, 0.3, 1, 7, 25, 61, -2))
            asked = asking(chance.choice((0, 1, 20, 60, 101)), key_id=chance.choice("ab"))
            (one,), (other,) = await memory.take([asked]), await shared.take([asked])
            assert (one.fits, one.windows, round(one.now_s, 3)) == (other.fits, other.windows, round(other.now_s, 3))
    finally:
        await shared.close()


async def test_gateways_share_one_count(redis_url: str) -> None:
    """By the server's own clock: theirs may differ."""
    gateways = [RedisRates(redis_url, timeout_s=PATIENT_S) for _ in range(2)]
    limits = KeyLimits(requests_per_minute=30)
    try:
        asked = [gateway.take([asking(limits=limits)] * 4) for gateway in gateways for _ in range(10)]
        taken = [one for some in await asyncio.gather(*asked) for one in some]
        assert sum(one.fits for one in taken) == 30
    finally:
        for gateway in gateways:
            await gateway.close()


async def test_redis_forgets_a_key_that_is_quiet(redis_url: str) -> None:
    counted = RedisRates(redis_url, timeout_s=PATIENT_S)
    async with redis.asyncio.Redis.from_url(redis_url) as client:
        await take(counted, asking())
        names = [name async for name in client.scan_iter("tollgate:rate:*")]
        assert len(names) == 2
        assert all([0 < await client.ttl(name) <= 62 for name in names])
    await counted.close()


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.message for record in caplog.records if record.name == "tollgate.rates"]


@pytest.mark.parametrize("how", ["stop", "freeze"])
async def test_without_redis_each_counts_for_itself_and_only_the_first_waits(
    private_redis: PrivateRedis, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    getattr(private_redis, how)()
    counted = RedisRates(private_redis.url, timeout_s=0.05, again_s=3600)
    try:
        assert await take(counted, *[asking()] * 6) == [True] * 5 + [False], "from nothing, but counted"
        private_redis.thaw()
        if how == "stop":
            private_redis.start()
        for _ in range(3):
            assert await take(counted, asking()) == [False], "it is not asked again so soon"
        assert warnings_of(caplog) == ["Redis does not answer, each gateway counts the rates of keys for itself"]
    finally:
        await counted.close()


@pytest.mark.parametrize("how", ["stop", "freeze"])
async def test_redis_is_asked_again_and_its_answers_are_read_right(
    private_redis: PrivateRedis, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Also on the connection whose answer did not come in time."""
    caplog.set_level(logging.INFO)
    counted = RedisRates(private_redis.url, timeout_s=3.0, again_s=0.0)
    limits = KeyLimits(requests_per_minute=10**6)

    async def used() -> int:
        (taken,) = await counted.take([asking(limits=limits)])
        return rates.used(taken.windows[0])

    try:
        async with asyncio.timeout(60):
            while await used() < 3:
                pass
            caplog.clear()
            getattr(private_redis, how)()
            assert await used() == 1, "its own count"
            private_redis.thaw()
            if how == "stop":
                private_redis.start()
            while "rates are counted on Redis again" not in warnings_of(caplog):
                before = await used()
        assert [await used() - before for _ in range(3)] == [1, 2, 3]
    finally:
        await counted.close()


async def test_windows_that_count_nothing_are_dropped(clock: Clock) -> None:
    memory = MemoryRates(clock=clock)
    limits = KeyLimits(requests_per_minute=1)
    for n in range(MAX_KEPT):
        await memory.take([asking(key_id=str(n), limits=limits)])
    clock.now_s += 100
    await memory.take([asking(key_id="new", limits=limits)])
    assert len(memory._windows) == 1


async def test_the_settings_choose(redis_url: str) -> None:
    assert isinstance(open_rates(None), MemoryRates)
    shared = open_rates(redis_url)
    assert isinstance(shared, RedisRates)
    await shared.close()
