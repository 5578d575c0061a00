"""A worker that dies at any step of an upstream batch is followed by another, and no line is bought twice."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from tests.worker.batch_world import BatchWorld
from tests.worker.world import KEYS, World, until
from tollgate.simulator import Faults
from worker.upstream_batches.cloud import Cloud

STEPS = ["upload", "create", "retrieve", "download"]


class Dying(Cloud):
    """The account of a worker that dies at one of its calls: before it is made, or before its answer is committed."""

    def __init__(self, *, base_url: str, at: str, after: bool) -> None:
        super().__init__(base_url=base_url, secret=KEYS["KEY_A"])
        self._at, self._after = at, after
        self.died = asyncio.Event()

    async def _die(self, call: Callable[..., Awaitable[Any]], *args: Any, **kwargs: Any) -> Any:
        if call.__name__ != self._at:
            return await call(*args, **kwargs)
        if self._after:
            await call(*args, **kwargs)
        self.died.set()
        return await asyncio.Event().wait()

    async def upload(self, *args: Any, **kwargs: Any) -> Any:
        return await self._die(super().upload, *args, **kwargs)

    async def create(self, *args: Any, **kwargs: Any) -> Any:
        return await self._die(super().create, *args, **kwargs)

    async def retrieve(self, *args: Any, **kwargs: Any) -> Any:
        return await self._die(super().retrieve, *args, **kwargs)

    async def download(self, *args: Any, **kwargs: Any) -> Any:
        return await self._die(super().download, *args, **kwargs)


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("at", STEPS)
async def test_another_worker_goes_on_where_one_died(world: World, at: str, after: bool) -> None:
    bw = await BatchWorld.begin(world, failed=0.2)
    batch_id = await bw.batch(*(f"prompt {number}" for number in range(20)))
    first = await world.engine(bw.spec)
    dying = Dying(base_url=bw.simulator.base_url, at=at, after=after)
    buyer = bw.buyer(engine=first, clouds={("zhipu", "KEY_A"): dying})
    async with asyncio.timeout(20):
        await dying.died.wait()
    await buyer.stop()
    await world.bury(first.lease.worker_id)
    bw.buyer()
    batch = await bw.ended(batch_id)
    assert batch.sums.tasks_succeeded == 20
    assert len(bw.simulator.cloud.batches.newest(key_id="alpha")) == 1
    await bw.assert_books_agree()


async def test_nobody_takes_over_what_a_live_worker_looks_after(world: World) -> None:
    bw = await BatchWorld.begin(world, latency_s=1.0)
    batch_id = await bw.batch("one")
    first = await world.engine(bw.spec)
    bw.buyer(engine=first)
    await bw.until_bought(batch_id, "running")
    bw.buyer()
    await bw.ended(batch_id)
    (row,) = await bw.bought(batch_id)
    assert row.worker_id == first.lease.worker_id


@pytest.mark.parametrize("fault", ["cut", "garbage", "server_error"])
async def test_a_create_whose_answer_is_lost_is_found_and_not_repeated(world: World, fault: str) -> None:
    bw = await BatchWorld.begin(
        world, faults_on=("batch_create",), latency_s=0.2, settings={"faults": Faults(**{fault: 1.0})}
    )
    batch_id = await bw.batch("one", "two")
    bw.buyer()

    async def was_asked() -> bool:
        return bool(bw.simulator.stats.faults[fault])

    await until(was_asked)
    bw.simulator.change(faults={fault: 0.0})
    batch = await bw.ended(batch_id)
    assert (batch.sums.tasks_succeeded, await bw.modes(batch_id)) == (2, {("batch", "succeeded"): 2})
    assert len(bw.simulator.cloud.batches.newest(key_id="alpha")) == 1
    # After a server error it was not there, and is asked for once more; else it was, and is not.
    assert bw.simulator.stats.requests["batch_create"] == (2 if fault == "server_error" else 1)
    await bw.assert_books_agree()


@pytest.mark.parametrize("fault", ["rate_limit", "server_error", "garbage", "cut"])
@pytest.mark.parametrize("call", ["file_upload", "batch_retrieve", "batch_list", "file_content"])
async def test_calls_that_fail_are_made_again(sqlite_world: World, call: str, fault: str) -> None:
    bw = await BatchWorld.begin(
        sqlite_world, faults_on=(call,), failed=0.2, settings={"faults": Faults(**{fault: 0.5}), "seed": 3}
    )
    batch_id = await bw.batch(*(f"prompt {number}" for number in range(10)))
    bw.buyer()
    batch = await bw.ended(batch_id)
    assert batch.sums.tasks_succeeded == 10
    assert len(bw.simulator.cloud.batches.newest(key_id="alpha")) == 1
