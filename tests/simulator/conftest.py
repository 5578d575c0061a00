"""A price list with round numbers, and simulators and clients that end with their test."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from datetime import UTC, datetime

import aiohttp
import pytest

from tests.simulator.client import Client, Start
from tollgate.domain.prices import Price, PriceTable, Tier
from tollgate.simulator import Simulator, SimulatorSettings

YUAN = 1_000_000_000


def price(model: str, *, input_yuan: int, output_yuan: int, cached_yuan: int) -> Price:
    tier = Tier(
        name="all",
        input_nano=input_yuan * YUAN,
        output_nano=output_yuan * YUAN,
        cached_nano=cached_yuan * YUAN,
    )
    return Price(
        upstream="zhipu",
        model=model,
        valid_from=datetime(2024, 1, 1, tzinfo=UTC),
        currency="CNY",
        tiers=(tier,),
    )


@pytest.fixture(scope="session")
def prices() -> PriceTable:
    """glm-4.7 costs 4 in, 16 out, 1 cached a million tokens; embedding-3 costs 1; glm-4-flash nothing."""
    return PriceTable(
        [
            price("glm-4.7", input_yuan=4, output_yuan=16, cached_yuan=1),
            price("glm-4-flash", input_yuan=0, output_yuan=0, cached_yuan=0),
            price("embedding-3", input_yuan=1, output_yuan=1, cached_yuan=1),
        ]
    )


@pytest.fixture
async def start(prices: PriceTable) -> AsyncIterator[Start]:
    """Starts a simulator with these settings, and a client of it."""
    async with AsyncExitStack() as stack:

        async def begin(**settings: object) -> Client:
            made = SimulatorSettings(**settings)  # type: ignore[arg-type]
            simulator = await stack.enter_async_context(Simulator(made, prices=prices))
            session = await stack.enter_async_context(aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)))
            return Client(simulator=simulator, session=session)

        yield begin
