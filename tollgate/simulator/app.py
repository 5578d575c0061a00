"""Puts the simulator's aiohttp application together."""

from __future__ import annotations

from aiohttp import web

from tollgate.domain.prices import PriceTable
from tollgate.simulator import control, direct, embeddings, tasks
from tollgate.simulator.answering import guarded
from tollgate.simulator.cloud import CLOUD, Cloud
from tollgate.simulator.codes import error_body
from tollgate.simulator.settings import SimulatorSettings

ROOT = "/api/paas/v4"
"""Where ZhipuAI's v4 wire begins, here as there."""
BODY_MAX = 100 * 1024 * 1024
"""Bytes of a request; aiohttp's own limit of 1 MiB is below a long prompt."""


def create_app(settings: SimulatorSettings | None = None, *, prices: PriceTable) -> web.Application:
    """A simulated cloud that bills by the prices of upstream "zhipu"."""
    app = web.Application(client_max_size=BODY_MAX)
    app[CLOUD] = Cloud(settings or SimulatorSettings(), prices=prices)
    app.router.add_post(f"{ROOT}/chat/completions", guarded("chat", direct.complete))
    app.router.add_post(f"{ROOT}/async/chat/completions", guarded("async", tasks.submit))
    app.router.add_get(f"{ROOT}/async-result/{{id}}", guarded("async_result", tasks.retrieve))
    app.router.add_post(f"{ROOT}/embeddings", guarded("embeddings", embeddings.embed))
    app.add_routes(control.routes())
    app.router.add_route("*", f"{ROOT}/{{rest:.*}}", _no_such_api)
    app.on_shutdown.append(_let_go)
    return app


async def _no_such_api(_request: web.Request) -> web.Response:
    return web.Response(status=404, body=error_body("1222"), content_type="application/json")


async def _let_go(app: web.Application) -> None:
    app[CLOUD].closing.set()
