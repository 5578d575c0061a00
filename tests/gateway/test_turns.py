"""Long work lets others have their turn."""

from __future__ import annotations

import asyncio

from gateway import turns


async def test_all_items_come_in_order_and_others_have_a_turn_in_between() -> None:
    others = 0

    async def other() -> None:
        nonlocal others
        while True:
            others += 1
            await asyncio.sleep(0)

    beside = asyncio.create_task(other())
    count = 4 * turns.AT_ONCE + 1
    found = [(index, item) async for index, item in turns.of(range(count))]
    beside.cancel()
    assert found == list(enumerate(range(count)))
    assert others == count // turns.AT_ONCE


async def test_a_short_list_is_done_at_once() -> None:
    beside = asyncio.create_task(asyncio.sleep(0))
    assert [item async for _, item in turns.of("abc")] == ["a", "b", "c"]
    assert not beside.done()
    await beside
