"""The loop that takes batches in, by itself."""

from __future__ import annotations

import asyncio

import pytest

from tests.gateway.conftest import OpenGate


@pytest.mark.parametrize("turns", range(6))
async def test_a_stop_that_comes_as_it_is_woken_ends_it(gate_with: OpenGate, turns: int) -> None:
    """`asyncio.wait_for` of Python 3.11 forgets a cancel that comes in the turn in which it is done."""
    async with gate_with() as gate:
        await asyncio.sleep(0.05)
        gate.services.batch_intake.wake()
        for _ in range(turns):
            await asyncio.sleep(0)
        await asyncio.wait_for(gate.services.batch_intake.stop(), 4)
