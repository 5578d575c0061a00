"""Gateways that end with their test, on both databases."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from tests.gateway.gate import Caller, Gate, open_gate
from tests.gateway.upstream import Upstream, listening
from tollgate.simulator import SimulatorSettings

OpenGate = Callable[..., contextlib.AbstractAsyncContextManager[Gate]]


@pytest.fixture
def gate_with(database_url: str, tmp_path: Path) -> OpenGate:
    """Opens a gateway with other settings than the usual."""

    def begin(**changes: object) -> contextlib.AbstractAsyncContextManager[Gate]:
        return open_gate(database_url, tmp_path, **changes)  # type: ignore[arg-type]

    return begin


@pytest.fixture
async def gate(gate_with: OpenGate) -> AsyncIterator[Gate]:
    """A gateway without a worker: its tasks end as the test says."""
    async with gate_with() as opened:
        yield opened


@pytest.fixture
async def sqlite_gate(sqlite_url: str, tmp_path: Path) -> AsyncIterator[Gate]:
    """A gateway on SQLite only, for the tables of what is refused before the store is asked."""
    async with open_gate(sqlite_url, tmp_path) as opened:
        yield opened


@pytest.fixture
async def caller(gate: Gate) -> Caller:
    """A user of the project acme."""
    return await gate.caller()


@pytest.fixture
async def working(gate_with: OpenGate) -> AsyncIterator[Gate]:
    """A gateway with a worker, in front of a simulator that answers at once."""
    async with gate_with(simulator=SimulatorSettings(extra_models=("glm-new",))) as opened:
        yield opened


@pytest.fixture
async def upstream() -> AsyncIterator[Upstream]:
    """An upstream that keeps what it is sent, for a gate opened with `upstream=upstream.base_url`."""
    upstream = Upstream()
    async with listening(upstream.receive) as upstream.base_url:
        yield upstream
