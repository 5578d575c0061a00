"""Both buses carry notices; the one over Redis outlives its server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from uuid import UUID

import pytest
import redis.asyncio

from tests.broker.logs import heard
from tests.broker.private_redis import PrivateRedis
from tollgate.broker import bus as bus_module
from tollgate.broker.bus import CANCEL, ENDED, Bus, MemoryBus, RedisBus, open_bus
from tollgate.domain.ids import new_id

LIMIT_S = 15.0


class Inbox:
    """What a handler was given."""

    def __init__(self) -> None:
        self.ids: list[UUID] = []
        self._news = asyncio.Event()

    def __call__(self, ids: list[UUID]) -> None:
        self.ids.extend(ids)
        self._news.set()

    async def wait_for(self, wanted: UUID) -> None:
        async with asyncio.timeout(LIMIT_S):
            while wanted not in self.ids:
                await self._news.wait()
                self._news.clear()


@pytest.fixture(params=["memory", "redis"])
async def bus(request: pytest.FixtureRequest) -> AsyncIterator[Bus]:
    opened = open_bus(request.getfixturevalue("redis_url") if request.param == "redis" else None)
    assert isinstance(opened, RedisBus if request.param == "redis" else MemoryBus)
    yield opened
    await opened.close()


@pytest.fixture
async def breakable(private_redis: PrivateRedis, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[RedisBus]:
    """A bus on a Redis that the test breaks. It reconnects in 0.05 s, which is a test's patience."""
    monkeypatch.setattr(bus_module, "RECONNECT_S", 0.05)
    monkeypatch.setattr(bus_module, "SILENCE_S", 0.2)
    opened = RedisBus(private_redis.url)
    yield opened
    await opened.close()


async def publish_until_heard(bus: Bus, inbox: Inbox) -> None:
    """Publish ever new notices until one comes."""
    async with asyncio.timeout(LIMIT_S):
        while True:
            sent = new_id()
            await bus.publish(ENDED, [sent])
            try:
                async with asyncio.timeout(0.2):
                    return await inbox.wait_for(sent)
            except TimeoutError:
                continue


async def test_a_notice_reaches_every_handler_of_its_channel_and_no_other(bus: Bus) -> None:
    first, second, other = Inbox(), Inbox(), Inbox()
    bus.subscribe(ENDED, first)
    bus.subscribe(ENDED, second)
    bus.subscribe(CANCEL, other)
    await bus.start()
    ids = [new_id(), new_id()]
    await bus.publish(ENDED, ids)
    await first.wait_for(ids[-1])
    await second.wait_for(ids[-1])
    assert (first.ids, second.ids, other.ids) == (ids, ids, [])


async def test_two_databases_of_one_server_do_not_hear_each_other(private_redis: PrivateRedis) -> None:
    here, there = Inbox(), Inbox()
    buses = [RedisBus(f"{private_redis.url.rpartition('/')[0]}/{number}") for number in (1, 2)]
    for bus, inbox in zip(buses, (here, there), strict=True):
        bus.subscribe(ENDED, inbox)
        await bus.start()
    first, second = new_id(), new_id()
    await buses[0].publish(ENDED, [first])
    await buses[1].publish(ENDED, [second])
    await here.wait_for(first)
    await there.wait_for(second)
    assert (here.ids, there.ids) == ([first], [second])
    for bus in buses:
        await bus.close()


async def test_a_bus_that_only_sends_needs_no_handler(bus: Bus) -> None:
    await bus.start()
    await bus.publish(ENDED, [new_id()])
    await bus.ping()


async def test_starting_twice_delivers_once(bus: Bus) -> None:
    inbox = Inbox()
    bus.subscribe(ENDED, inbox)
    await bus.start()
    await bus.start()
    sent, last = new_id(), new_id()
    await bus.publish(ENDED, [sent])
    await bus.publish(ENDED, [last])
    await inbox.wait_for(last)
    assert inbox.ids == [sent, last]


async def test_a_dropped_connection_is_made_anew(breakable: RedisBus, private_redis: PrivateRedis) -> None:
    inbox = Inbox()
    breakable.subscribe(ENDED, inbox)
    await breakable.start()
    await publish_until_heard(breakable, inbox)
    client = redis.asyncio.Redis.from_url(private_redis.url)
    assert await client.client_kill_filter(_type="pubsub") == 1
    await client.aclose()
    await publish_until_heard(breakable, inbox)


async def test_whoever_must_know_is_told_that_it_listens_anew_and_all_that_comes_then_is_heard(
    breakable: RedisBus, private_redis: PrivateRedis
) -> None:
    inbox, resumed = Inbox(), asyncio.Event()
    breakable.subscribe(ENDED, inbox)
    breakable.on_resume(resumed.set)
    await breakable.start()
    for _ in range(3):
        async with asyncio.timeout(LIMIT_S):
            await resumed.wait()
        resumed.clear()
        sent = new_id()
        await breakable.publish(ENDED, [sent])
        await inbox.wait_for(sent)
        client = redis.asyncio.Redis.from_url(private_redis.url)
        await client.client_kill_filter(_type="pubsub")
        await client.aclose()


@pytest.mark.parametrize("after_s", [0, 0.001, 0.002, 0.004, 0.008])
async def test_it_closes_also_while_it_makes_its_connection_anew(
    breakable: RedisBus, private_redis: PrivateRedis, after_s: float
) -> None:
    breakable.subscribe(ENDED, Inbox())
    await breakable.start()
    client = redis.asyncio.Redis.from_url(private_redis.url)
    await client.client_kill_filter(_type="pubsub")
    await client.aclose()
    await asyncio.sleep(after_s)  # whichever step it is in
    await asyncio.wait_for(breakable.close(), LIMIT_S)


async def test_a_server_that_went_and_came_back_is_found_again(
    breakable: RedisBus, private_redis: PrivateRedis
) -> None:
    inbox = Inbox()
    breakable.subscribe(ENDED, inbox)
    await breakable.start()
    private_redis.stop()
    await breakable.publish(ENDED, [new_id()])
    await asyncio.to_thread(private_redis.start)
    await publish_until_heard(breakable, inbox)


async def test_a_listener_whose_server_falls_silent_hangs_up_and_comes_back(
    breakable: RedisBus, private_redis: PrivateRedis
) -> None:
    inbox = Inbox()
    breakable.subscribe(ENDED, inbox)
    await breakable.start()
    with heard("tollgate.bus") as warned:
        private_redis.freeze()
        assert await asyncio.to_thread(warned.wait, LIMIT_S)
    private_redis.thaw()
    await publish_until_heard(breakable, inbox)


@pytest.mark.parametrize("broken", ["freeze", "stop"])
async def test_publishing_never_raises_and_a_ping_does(
    breakable: RedisBus, private_redis: PrivateRedis, broken: str
) -> None:
    await breakable.ping()
    getattr(private_redis, broken)()
    async with asyncio.timeout(LIMIT_S):
        await breakable.publish(ENDED, [new_id()])
        with pytest.raises(ConnectionError):
            await breakable.ping()


async def test_a_bus_may_start_before_its_server(breakable: RedisBus, private_redis: PrivateRedis) -> None:
    private_redis.stop()
    inbox = Inbox()
    breakable.subscribe(ENDED, inbox)
    await breakable.start()
    await asyncio.to_thread(private_redis.start)
    await publish_until_heard(breakable, inbox)


@pytest.mark.parametrize("noise", [b"not json", b'"text"', b"[1]", b'["no-id"]', b"null"])
async def test_noise_on_the_channel_is_passed_over(private_redis: PrivateRedis, noise: bytes) -> None:
    bus, inbox = RedisBus(private_redis.url), Inbox()
    bus.subscribe(ENDED, inbox)
    await bus.start()
    client = redis.asyncio.Redis.from_url(private_redis.url)
    await client.publish("tollgate:0:ended", noise)
    await client.aclose()
    sent = new_id()
    await bus.publish(ENDED, [sent])
    await inbox.wait_for(sent)
    await bus.close()
