"""The commands that run servers: up, gateway, worker, beat, migrate, simulator."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from tollgate.cli.embedded import Up
    from tollgate.settings import Settings

Host = Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 for every one of this machine.")]
Port = Annotated[int, typer.Option(help="Port to listen on; 0 takes a free one.", min=0, max=65535)]
Model = Annotated[
    str | None,
    typer.Option(
        help="A checkpoint to serve on this machine's own device: a folder or a hub name; UPSTREAM=PATH where "
        "models.toml has several local upstreams. Default: TOLLGATE_MODEL."
    ),
]
DATA_HELP = "Folder of the database and the keys. Default: TOLLGATE_DATA, else ./.tollgate"


def register(app: typer.Typer) -> None:
    """Add these commands to `app`."""
    for command in (up, gateway, worker, beat, migrate, simulator):
        app.command(rich_help_panel="Servers")(command)


def _settings(**options: Any) -> Settings:
    """Those of the environment, with the options that were given instead. From here on the log speaks."""
    from tollgate import logs, settings

    given = {name: value for name, value in options.items() if value is not None}
    loaded = settings.load()
    sources = {**loaded.sources, **dict.fromkeys(given, "command line")}
    logs.configure(loaded.log_level)
    return loaded.model_copy(update={**given, "sources": sources})


def up(
    host: Host = "127.0.0.1",
    port: Port = 8000,
    data: Annotated[Path | None, typer.Option(help=DATA_HELP)] = None,
    model: Model = None,
) -> None:
    """Run everything in this one process, on a SQLite file. Needs no other server.

    Without a ZhipuAI key (ZHIPUAI_API_KEY) it runs on the simulator, and says so: nothing is bought.

    Examples:
      tollgate up --port 8000
      tollgate up --model /models/glm-4-9b-chat-hf
    """
    import uvloop

    from tollgate.cli import embedded
    from worker.restart import Restart

    settings, restart = _settings(data=data, model=model), Restart()
    told = f"stopping: calls in flight get {settings.drain_timeout_s:g} s, what is queued waits for the next start"
    uvloop.run(
        embedded.serve(
            settings,
            host=host,
            port=port,
            on_ready=_tell_up,
            on_stop=lambda: typer.echo(told),
            on_dead=restart.ask,
        )
    )
    raise typer.Exit(restart.follow(0))


def _tell_up(running: Up) -> None:
    if running.local_models:
        typer.echo(f"served on this machine's own device: model {', '.join(running.local_models)}")
    if running.simulator_url:
        typer.echo(f"no ZhipuAI key is set: running on the simulator ({running.simulator_url}); nothing is bought")
    if running.admin_key_is_new:
        typer.echo(f"admin key (kept in {running.data.path / 'admin.key'}): {running.admin_key}")
    typer.echo(f"data in {running.data.path}")
    typer.echo(f"Tollgate serves on {running.url} (docs at {running.url}/docs); stop with Ctrl-C")


def gateway(host: Host = "127.0.0.1", port: Port = 8000) -> None:
    """Run the HTTP gateway of the distributed mode (PostgreSQL and Redis by the settings).

    Example: TOLLGATE_DATABASE_URL=postgresql://... TOLLGATE_REDIS_URL=redis://... tollgate gateway
    """
    import uvloop

    uvloop.run(_serve_gateway(_settings(), host, port))


async def _serve_gateway(settings: Settings, host: str, port: int) -> None:
    from gateway import create_app
    from gateway.services import open_services
    from tollgate.cli import http_server

    with contextlib.closing(http_server.bind(host, port)) as listener:
        async with open_services(settings) as services:
            url = http_server.address_of(listener)
            ready = f"Tollgate's gateway serves on {url} (docs at {url}/docs)"
            await http_server.serve(
                create_app(services),
                listener,
                on_ready=lambda: typer.echo(ready),
                on_stop=services.waiters.release,
            )


def worker(
    lanes: Annotated[
        str | None,
        typer.Option(help="What to serve: cloud, local, or lanes such as cloud.bulk. Default: TOLLGATE_LANES."),
    ] = None,
    concurrency: Annotated[
        int | None, typer.Option(help="Calls in flight in this process. Default: TOLLGATE_MAX_IN_FLIGHT.", min=1)
    ] = None,
    model: Model = None,
) -> None:
    """Run a Celery worker; the same as `celery -A worker worker`.

    SIGTERM or Ctrl-C: no new tasks, calls in flight get TOLLGATE_DRAIN_TIMEOUT_S, the rest is given back.

    Examples:
      tollgate worker --lanes cloud
      tollgate worker --lanes local --model /models/glm-4-9b-chat-hf
    """
    from tollgate import configuration, logs
    from worker.process import create_worker_app
    from worker.restart import Restart

    settings, restart = _settings(lanes=lanes, max_in_flight=concurrency, model=model), Restart()
    app = create_worker_app(settings, configuration.load_catalog(settings), on_dead=restart.ask)
    logs.keep_to_ourselves()
    # As `celery worker` does it; `app.worker_main` would lose the exit code.
    running = app.Worker(loglevel=settings.log_level.upper(), without_gossip=True, without_mingle=True)
    running.start()
    raise typer.Exit(restart.follow(running.exitcode or 0))


def beat() -> None:
    """Run the beat: rescue from dead workers, retries, expiry, feeding. Any number may run.

    Example: tollgate beat
    """
    import uvloop

    uvloop.run(_beat(_settings()))


async def _beat(settings: Settings) -> None:
    from tollgate import configuration
    from tollgate.cli import http_server
    from worker.process import open_beat

    async with open_beat(settings, configuration.load_catalog(settings)) as running:
        task = asyncio.create_task(running.run())
        with http_server.stop_on_signals(task.cancel):
            typer.echo("Tollgate's beat runs")
            with contextlib.suppress(asyncio.CancelledError):
                await task


def migrate(data: Annotated[Path | None, typer.Option(help=DATA_HELP)] = None) -> None:
    """Bring the database to this version's schema, and publish the price list. Safe to run twice.

    Works on TOLLGATE_DATABASE_URL, else on the SQLite file of the data folder.

    Example: TOLLGATE_DATABASE_URL=postgresql://user@host/tollgate tollgate migrate
    """
    before, after, published = asyncio.run(_migrate(_settings(data=data)))
    typer.echo(f"the database is at revision {after}" + ("" if before == after else f" (was {before or 'empty'})"))
    typer.echo(f"{published} new price versions published")


async def _migrate(settings: Settings) -> tuple[str | None, str, int]:
    from tollgate import configuration
    from tollgate.store import migrate as migrations
    from tollgate.store import price_list
    from tollgate.store.database import Database

    prices = configuration.load_prices(settings)
    database = Database.connect(settings.store_url, pool=1, command_timeout_s=None)
    try:
        before, after = await migrations.upgrade(database)
        return before, after, await price_list.publish_all(database, prices)
    finally:
        await database.close()


def simulator(
    host: Host = "127.0.0.1",
    port: Port = 8999,
    latency: Annotated[float, typer.Option(help="Seconds before an answer.", min=0)] = 0.2,
    tokens_per_second: Annotated[float | None, typer.Option(help="Speed of an answer; default: instant.")] = None,
    rate_limit: Annotated[float, typer.Option(help="Share of calls answered 429/1302.", min=0, max=1)] = 0.0,
    server_error: Annotated[float, typer.Option(help="Share of calls answered 500.", min=0, max=1)] = 0.0,
    garbage: Annotated[float, typer.Option(help="Share of calls answered with garbage.", min=0, max=1)] = 0.0,
    hang: Annotated[float, typer.Option(help="Share of calls never answered.", min=0, max=1)] = 0.0,
    cut: Annotated[float, typer.Option(help="Share of calls cut in the middle of the answer.", min=0, max=1)] = 0.0,
    max_in_flight: Annotated[int | None, typer.Option(help="Calls at once, above it 429/1302.", min=1)] = None,
    batch_latency: Annotated[float, typer.Option(help="Seconds that a batch takes.", min=0)] = 0.0,
    seed: Annotated[int, typer.Option(help="Of the faults: the same seed, the same faults.")] = 0,
) -> None:
    """Run a stand-in for ZhipuAI's cloud: the v4 wire, batches too, deterministic answers, faults on demand, a bill.

    It knows the models that have a price at upstream zhipu
    (TOLLGATE_PRICES_FILE). Any key of the form id.secret works. The bill is at
    /simulator/bill. GET /simulator/settings shows all settings, PUT changes
    some: below, half of the calls are answered 1305, and every key 1113.

    Examples:
      tollgate simulator --latency 0.5 --rate-limit 0.1
      URL=http://127.0.0.1:8999/simulator/settings
      curl -X PUT $URL -d '{"rate_limit_code": "1305", "faults": {"rate_limit": 0.5}}'
      curl -X PUT $URL -d '{"refuse_keys": {"*": "1113"}}'
      curl -X PUT $URL -d '{"batches": {"unfinished": 0.1, "window_s": 60}}'
    """
    import uvloop

    from tollgate import configuration
    from tollgate.domain.prices import PriceTable
    from tollgate.simulator import Batches, Faults, SimulatorSettings, serve

    faults = Faults(rate_limit=rate_limit, server_error=server_error, garbage=garbage, hang=hang, cut=cut)
    chosen = SimulatorSettings(
        seed=seed,
        latency_s=latency,
        tokens_per_second=tokens_per_second,
        max_in_flight=max_in_flight,
        faults=faults,
        batches=Batches(latency_s=batch_latency),
    )
    prices = PriceTable(configuration.load_prices(_settings()))
    told = "the simulator speaks ZhipuAI's v4 wire on {}; stop with Ctrl-C"

    async def run() -> None:
        from tollgate.cli import http_server

        serving = asyncio.create_task(
            serve(chosen, prices=prices, host=host, port=port, ready=lambda s: typer.echo(told.format(s.base_url)))
        )
        with http_server.stop_on_signals(serving.cancel), contextlib.suppress(asyncio.CancelledError):
            try:
                await serving
            except OSError as error:
                raise http_server.cannot_listen(host, port, error) from error

    uvloop.run(run())
