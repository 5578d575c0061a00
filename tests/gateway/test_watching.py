"""Copies of streams: whoever comes and goes while the bus is slow, nobody is left deaf and nothing is left behind."""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import UUID

import pytest

from gateway.following import Place
from gateway.watching import Watches
from tollgate.broker.bus import RETELL, MemoryBus
from tollgate.broker.telling import Telling, channel_of
from tollgate.domain.ids import new_id
from tollgate.domain.record import START, Offset


class SlowBus(MemoryBus):
    """As over a network: to listen, and to stop it, take a while."""

    def __init__(self) -> None:
        super().__init__()
        self.may = asyncio.Event()

    async def listen(self, channel: str, listener: Any) -> None:
        await self.may.wait()
        await super().listen(channel, listener)

    @property
    def listened(self) -> set[str]:
        return set(self._listeners)


def telling(text: str, *, start: Offset = START, attempt: int = 1) -> bytes:
    return Telling(attempt=attempt, start=start, delta={"content": text}).dump()


async def turns(count: int = 20) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def test_one_that_comes_and_leaves_while_another_begins_takes_nothing_from_it() -> None:
    bus, task_id = SlowBus(), new_id()
    watches, texts = Watches(bus), []

    async def read(*, leaves: bool) -> None:
        async with watches.watch(task_id) as watch:
            if not leaves:
                await watch.news(5)
                texts.append(watch.record.texts[1])

    first = asyncio.create_task(read(leaves=False))
    await turns()
    second = asyncio.create_task(read(leaves=True))
    await turns()
    second.cancel()
    await asyncio.gather(second, return_exceptions=True)
    bus.may.set()
    await turns()
    await bus.send([(channel_of(task_id), telling("hello"))])
    await first
    assert texts == ["hello"]
    await turns()
    assert (len(watches), bus.listened) == (0, set())


async def test_one_that_leaves_before_it_listens_leaves_nothing() -> None:
    bus, task_id = SlowBus(), new_id()
    watches = Watches(bus)

    async def read() -> None:
        async with watches.watch(task_id):
            raise AssertionError("it never listened")

    reading = asyncio.create_task(read())
    await turns()
    reading.cancel()
    await asyncio.gather(reading, return_exceptions=True)
    bus.may.set()
    await turns()
    assert len(watches) == 0


async def test_what_is_missing_is_asked_for_and_an_older_attempt_is_passed_over() -> None:
    bus, task_id = MemoryBus(), new_id()
    watches = Watches(bus)
    asked: list[UUID] = []
    bus.subscribe(RETELL, asked.extend)
    async with watches.watch(task_id) as watch:
        await turns()
        assert asked == [task_id], "what was written before"
        watch._copy.asked_at_s = float("-inf")
        await bus.send([(channel_of(task_id), telling("lo", start=Offset((0, 3))))])
        await turns()
        assert (asked, watch.record.texts) == ([task_id, task_id], ["", ""])
        await bus.send([(channel_of(task_id), telling("hello"))])
        await bus.send([(channel_of(task_id), telling("again", attempt=2))])
        await bus.send([(channel_of(task_id), telling("hello")), (channel_of(task_id), b"noise")])
        assert (watch.attempt, watch.record.texts) == (2, ["", "again"])


@pytest.mark.parametrize("given", ["", "0:0.0", "1", "1:", "x:0.0", "-1:0.0", "9" * 5000 + ":0.0", "1:0.0.", "²:0.0"])
def test_what_is_no_place(given: str) -> None:
    assert Place.parse(given) is None


def test_a_place_is_what_its_text_says() -> None:
    place = Place(3, Offset((1, 22), (0, 5)))
    assert str(place) == "3:1.22.0.5"
    assert Place.parse(str(place)) == place
