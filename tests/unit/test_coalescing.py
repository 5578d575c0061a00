"""Many callers, one write."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from tollgate.coalescing import Coalescer
from tollgate.domain.errors import StoreUnavailableError


class Log:
    """A flush that doubles its items, can be held, and refuses what it is told to."""

    def __init__(self, *, refuses: object = None, error: Exception | None = None) -> None:
        self.flushes: list[list[int]] = []
        self.began = asyncio.Event()
        self.gate = asyncio.Event()
        self.gate.set()
        self._refuses = refuses
        self._error = error or ValueError("no")

    async def flush(self, items: Sequence[int]) -> list[int]:
        self.flushes.append(list(items))
        self.began.set()
        await self.gate.wait()
        if self._refuses in items:
            raise self._error
        return [2 * item for item in items]


async def test_a_lone_item_is_written_at_once() -> None:
    log = Log()
    assert await Coalescer(log.flush, max_weight=10).submit(4) == 8
    assert log.flushes == [[4]]


async def test_what_arrives_while_a_write_runs_goes_into_the_next_and_each_gets_its_own() -> None:
    log = Log()
    log.gate.clear()
    coalescer = Coalescer(log.flush, max_weight=10)
    first = asyncio.create_task(coalescer.submit(1))
    await log.began.wait()
    rest = [asyncio.create_task(coalescer.submit(n)) for n in (2, 3, 4)]
    await asyncio.sleep(0)
    log.gate.set()
    assert await asyncio.gather(first, *rest) == [2, 4, 6, 8]
    assert log.flushes == [[1], [2, 3, 4]]


async def test_one_write_is_no_heavier_than_its_maximum_but_a_heavy_item_goes_alone() -> None:
    log = Log()
    coalescer = Coalescer(log.flush, max_weight=10, weigh=lambda item: item)
    await asyncio.gather(*(coalescer.submit(n) for n in (4, 5, 2, 30, 1)))
    assert log.flushes == [[4, 5], [2], [30], [1]]


async def test_one_bad_item_does_not_fail_its_neighbours() -> None:
    log = Log(refuses=2)
    coalescer = Coalescer(log.flush, max_weight=10)
    results = await asyncio.gather(*(coalescer.submit(n) for n in (1, 2, 3)), return_exceptions=True)
    assert [results[0], results[2]] == [2, 6]
    assert isinstance(results[1], ValueError)
    assert log.flushes == [[1, 2, 3], [1], [2], [3]]


async def test_a_store_that_does_not_answer_fails_all_at_once() -> None:
    log = Log(refuses=2, error=StoreUnavailableError("away"))
    coalescer = Coalescer(log.flush, max_weight=10)
    results = await asyncio.gather(*(coalescer.submit(n) for n in (1, 2, 3)), return_exceptions=True)
    assert all(isinstance(result, StoreUnavailableError) for result in results)
    assert len(log.flushes) == 1
    assert await coalescer.submit(5) == 10


async def test_a_caller_that_leaves_does_not_take_its_item_back() -> None:
    log = Log()
    log.gate.clear()
    coalescer = Coalescer(log.flush, max_weight=10)
    leaving, staying = (asyncio.create_task(coalescer.submit(n)) for n in (1, 2))
    await log.began.wait()
    leaving.cancel()
    log.gate.set()
    assert await staying == 4
    assert log.flushes == [[1, 2]]
    with pytest.raises(asyncio.CancelledError):
        await leaving


async def test_draining_returns_when_nothing_waits() -> None:
    log = Log()
    coalescer = Coalescer(log.flush, max_weight=1)
    await coalescer.drain()
    submitted = [asyncio.create_task(coalescer.submit(n)) for n in range(3)]
    await asyncio.sleep(0)
    await coalescer.drain()
    assert [task.result() for task in submitted] == [0, 2, 4]


async def test_a_flush_that_forgets_a_result_fails_its_callers() -> None:
    async def forgetful(items: Sequence[int]) -> list[int]:
        return list(items)[1:]

    coalescer = Coalescer(forgetful, max_weight=10)
    results = await asyncio.gather(*(coalescer.submit(n) for n in (1, 2)), return_exceptions=True)
    assert all(isinstance(result, RuntimeError) for result in results)


async def test_a_loop_that_ends_leaves_no_caller_waiting() -> None:
    log = Log()
    log.gate.clear()
    coalescer = Coalescer(log.flush, max_weight=1)
    callers = [asyncio.create_task(coalescer.submit(n)) for n in (1, 2)]
    await log.began.wait()
    assert coalescer._writing is not None
    coalescer._writing.cancel()
    async with asyncio.timeout(5):
        results = await asyncio.gather(*callers, return_exceptions=True)
    assert all(isinstance(result, asyncio.CancelledError) for result in results)
