"""Puts the simulator's aiohttp application together."""

from __future__ import annotations

from aiohttp import web

from tollgate.domain.prices import PriceTable
from tollgate.simulator import batches, control, direct, embeddings, files, tasks
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
    _add_files_and_batches(app.router)
    app.add_routes(control.routes())
    app.router.add_route("*", f"{ROOT}/{{rest:.*}}", _no_such_api)
    app.on_shutdown.append(_let_go)
    return app


def _add_files_and_batches(router: web.UrlDispatcher) -> None:
    router.add_post(f"{ROOT}/files", guarded("file_upload", files.upload))
    router.add_get(f"{ROOT}/files", guarded("file_list", files.show_all))
    router.add_get(f"{ROOT}/files/{{id}}", guarded("file_retrieve", files.show))
    router.add_delete(f"{ROOT}/files/{{id}}", guarded("file_delete", files.delete))
    router.add_get(f"{ROOT}/files/{{id}}/content", guarded("file_content", files.content))
    router.add_post(f"{ROOT}/batches", guarded("batch_create", batches.create))
    router.add_get(f"{ROOT}/batches", guarded("batch_list", batches.show_all))
    router.add_get(f"{ROOT}/batches/{{id}}", guarded("batch_retrieve", batches.retrieve))
    router.add_post(f"{ROOT}/batches/{{id}}/cancel", guarded("batch_cancel", batches.cancel))


async def _no_such_api(_request: web.Request) -> web.Response:
    return web.Response(status=404, body=error_body("1222"), content_type="application/json")


async def _let_go(app: web.Application) -> None:
    app[CLOUD].closing.set()
    await app[CLOUD].batches.close()
