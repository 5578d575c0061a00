"""/healthz and /readyz."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from tests.gateway.gate import Gate
from tollgate.broker.bus import MemoryBus
from tollgate.store import migrate, pauses


async def test_a_gateway_without_a_worker_is_ready_and_says_that_it_has_none(gate: Gate) -> None:
    ready = (await gate.http.get("/readyz")).json()
    assert ready == {
        "status": "ready",
        "database": "ok",
        "revision": migrate.head(),
        "bus": "ok",
        "workers": [],
        "lanes": {"cloud.interactive": 0, "cloud.bulk": 0, "local.interactive": 0, "local.bulk": 0},
        "pauses": [],
        "stuck_routes": [],
        "webhooks": {"due": 0, "due_since": None},
        "mode": "distributed",
        "simulator": False,
    }


async def test_workers_and_the_lanes_they_serve_are_shown(working: Gate) -> None:
    ready = (await working.http.get("/readyz")).json()
    (worker,) = ready["workers"]
    assert set(worker) == {"id", "name", "lanes", "seen_at"}
    assert set(worker["lanes"]) == {"cloud.interactive", "cloud.bulk"}
    assert ready["lanes"]["cloud.interactive"] == 1
    assert ready["lanes"]["local.bulk"] == 0


async def test_pauses_are_shown_and_change_no_status(gate: Gate) -> None:
    now = datetime.now(UTC)
    async with gate.database.write() as connection:
        await pauses.pause(
            connection, "zhipu", credential="KEY", reason="no balance", now=now, until=now + timedelta(minutes=1)
        )
    response = await gate.http.get("/readyz")
    assert response.status_code == 200
    (pause,) = response.json()["pauses"]
    assert (pause["upstream"], pause["credential"], pause["reason"]) == ("zhipu", "KEY", "no balance")
    assert pause["since"] < pause["until"]


async def test_a_bus_that_is_away_is_shown_and_changes_no_status(gate: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    async def refused(_bus: MemoryBus) -> None:
        raise ConnectionError

    # The in-process bus is never away.
    monkeypatch.setattr(MemoryBus, "ping", refused)
    response = await gate.http.get("/readyz")
    assert (response.status_code, response.json()["bus"]) == (200, "unreachable")
