"""/simulator/...: the bill, the counters and the settings of a running simulator. Open to whoever reaches the port."""

from __future__ import annotations

import time

import orjson
from aiohttp import web

from tollgate.domain.errors import SettingsError
from tollgate.simulator import settings_json
from tollgate.simulator.answering import JSON_TYPE
from tollgate.simulator.cloud import CLOUD


def routes() -> list[web.RouteDef]:
    """The routes of this module."""
    return [
        web.get("/simulator/bill", show_bill),
        web.delete("/simulator/bill", clear_bill),
        web.get("/simulator/bill.csv", download_bill),
        web.get("/simulator/stats", show_stats),
        web.get("/simulator/settings", show_settings),
        web.put("/simulator/settings", change_settings),
    ]


async def show_bill(request: web.Request) -> web.Response:
    """Totals, and totals by model."""
    return _json(request.app[CLOUD].bill.totals.as_json())


async def clear_bill(request: web.Request) -> web.Response:
    """Forget every charge; what is in flight is charged to the new bill."""
    request.app[CLOUD].bill.clear()
    return web.Response(status=204)


async def download_bill(request: web.Request) -> web.StreamResponse:
    """One row per charge, as CSV."""
    response = web.StreamResponse(headers={"Content-Type": "text/csv; charset=UTF-8"})
    await response.prepare(request)
    for piece in request.app[CLOUD].bill.csv():
        await response.write(piece)
    return response


async def show_stats(request: web.Request) -> web.Response:
    """Requests, faults, refusals, how much is in flight, and for how long a running async task was not asked for."""
    cloud = request.app[CLOUD]
    return _json(cloud.meter.as_json() | {"longest_unasked_s": cloud.tasks.longest_unasked_s(time.monotonic())})


async def show_settings(request: web.Request) -> web.Response:
    """All settings."""
    return web.Response(body=settings_json.dump(request.app[CLOUD].settings), headers=JSON_TYPE)


async def change_settings(request: web.Request) -> web.Response:
    """Change the named settings and leave the others; naming `seed` numbers the calls from 1 again.

    400 with a sentence if one is wrong; then none is changed.
    """
    cloud = request.app[CLOUD]
    try:
        cloud.change(settings_json.parse(await request.read()))
    except SettingsError as error:
        return _json({"error": {"code": "1210", "message": str(error)}}, status=400)
    return web.Response(body=settings_json.dump(cloud.settings), headers=JSON_TYPE)


def _json(body: object, *, status: int = 200) -> web.Response:
    return web.Response(body=orjson.dumps(body), status=status, headers=JSON_TYPE)
