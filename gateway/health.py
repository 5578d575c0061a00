"""/healthz: the process answers. /readyz: the database does, and is migrated; the rest is told, not judged."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime
from typing import Any

import fastapi

from gateway.dialects import native
from gateway.dialects.native import render
from gateway.dialects.native.errors import RETRY_AFTER_S
from gateway.dialects.route import json_response, route_class
from gateway.services import Services, ServicesDep
from tollgate.domain import reach
from tollgate.domain.errors import SettingsError, StoreUnavailableError
from tollgate.domain.lanes import LANES
from tollgate.store import deliveries, leases, migrate, pauses

router = fastapi.APIRouter(tags=["health"], route_class=route_class(native.answer, needs_key=False))


@router.get("/healthz")
async def healthz() -> fastapi.Response:
    return json_response({"status": "ok"})


@router.get("/readyz")
async def readyz(services: ServicesDep) -> fastapi.Response:
    """200 when tasks can be accepted. Workers, bus and pauses are in the body: without them tasks wait, no more."""
    try:
        await migrate.require_current(services.database)
        body = await _state(services)
    except (StoreUnavailableError, SettingsError) as error:
        headers = {"Retry-After": str(RETRY_AFTER_S)}
        return json_response({"status": "unready", "problem": str(error)}, status=503, headers=headers)
    return json_response({"status": "ready", "database": "ok", "revision": migrate.head(), **body})


async def _state(services: Services) -> dict[str, Any]:
    async with services.database.read() as connection:
        workers = await leases.alive(connection)
        paused = await pauses.read(connection)
        waiting = await deliveries.waiting(connection, now=datetime.now(UTC))
    served = Counter(lane for worker in workers for lane in worker.lanes)
    return {
        "bus": await _bus(services),
        "workers": [
            {"id": str(w.id), "name": w.name, "lanes": list(w.lanes), "seen_at": render.time(w.seen_at)}
            for w in workers
        ],
        "lanes": {lane: served[lane] for lane in LANES},
        "pauses": [
            {
                "upstream": p.upstream,
                "credential": p.credential,
                "reason": p.reason,
                "since": render.time(p.since),
                "until": render.time(p.until),
            }
            for p in paused
        ],
        "stuck_routes": [
            {"route": one.route, "reason": one.why, "fallbacks": sorted({to for to in one.fates.values() if to})}
            for one in reach.told(workers, services.catalog)
        ],
        "webhooks": {"due": waiting.count, "due_since": render.time(waiting.since)},
        "mode": services.mode,
        "simulator": services.simulated,
    }


async def _bus(services: Services) -> str:
    try:
        await services.bus.ping()
    except ConnectionError:
        return "unreachable"
    return "ok"
