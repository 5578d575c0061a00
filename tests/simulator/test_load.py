"""One process holds thousands of calls, and the server can be run until cancelled."""

from __future__ import annotations

import asyncio
import resource
import time
from collections.abc import Iterator

import aiohttp
import pytest

from tests.simulator.client import LIMIT_S, Start
from tollgate.domain.prices import PriceTable
from tollgate.simulator import Simulator, serve

CALLS = 2_000
SOCKETS = 2 * CALLS + 500
"""Both ends of each connection are in this process."""


@pytest.fixture
def many_sockets() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < SOCKETS:
        pytest.skip(f"needs {SOCKETS} open files; the hard limit is {hard}")
    if soft != resource.RLIM_INFINITY and soft < SOCKETS:
        resource.setrlimit(resource.RLIMIT_NOFILE, (SOCKETS, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.usefixtures("many_sockets")
async def test_two_thousand_calls_of_a_second_end_within_a_few(start: Start) -> None:
    client = await start(latency_s=1.0)
    before = time.monotonic()
    replies = await asyncio.gather(*(client.chat(f"call {number}") for number in range(CALLS)))
    assert time.monotonic() - before < 60, "one after the other they would take half an hour"
    assert {reply.status for reply in replies} == {200}
    assert len({reply.body["id"] for reply in replies}) == CALLS
    assert client.simulator.bill.charges == CALLS
    assert client.simulator.stats.peak_in_flight > CALLS // 2


async def test_serve_runs_until_cancelled(prices: PriceTable) -> None:
    listening: asyncio.Future[Simulator] = asyncio.get_running_loop().create_future()
    task = asyncio.create_task(serve(prices=prices, ready=listening.set_result))
    simulator = await asyncio.wait_for(listening, timeout=LIMIT_S)
    async with aiohttp.ClientSession() as session:
        async with session.get(f"{simulator.origin}/simulator/stats") as response:
            assert response.status == 200
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        with pytest.raises(aiohttp.ClientConnectionError):
            await session.get(f"{simulator.origin}/simulator/stats")


async def test_a_taken_port_is_an_error(start: Start, prices: PriceTable) -> None:
    taken = (await start()).simulator.port
    with pytest.raises(OSError, match="address already in use"):
        await Simulator(prices=prices, port=taken).__aenter__()
