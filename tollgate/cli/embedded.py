"""`tollgate up`: gateway, worker, beat and broker in one process on one SQLite file, and no other server.

The same code as the distributed mode, put together differently: Celery's in-memory broker with its
worker in a thread, the in-process bus, and where there is no ZhipuAI key, the simulator.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime

import pydantic

from gateway import create_app
from gateway.services import Services, run_services
from tollgate import collecting, configuration
from tollgate.broker.bus import MemoryBus
from tollgate.broker.celery_app import MEMORY_BROKER, create_celery
from tollgate.broker.publisher import Publisher
from tollgate.cli import http_server
from tollgate.cli.data_folder import DataFolder
from tollgate.domain import local_models
from tollgate.domain.errors import SettingsError
from tollgate.domain.ids import new_id
from tollgate.domain.keys import MasterKey, derive_secret
from tollgate.domain.lanes import LANES, PLACES
from tollgate.domain.prices import PriceTable
from tollgate.domain.routing import Catalog
from tollgate.domain.states import Role
from tollgate.domain.tasks import Key
from tollgate.settings import Settings
from tollgate.simulator import Simulator, SimulatorSettings
from tollgate.store import announce, keys, leases, migrate
from tollgate.store.database import Database
from worker.beat import Beat
from worker.celery_run import register_run
from worker.embedded_celery import EmbeddedCelery
from worker.process import load_rules, make_courier, run_engine
from worker.upstreams.local import serving
from worker.upstreams.local.serving import OnDead
from worker.upstreams.registry import secrets_of

SIMULATOR_KEY = "simulator.no-real-key"
SIMULATED_POLL_S = 1.0
"""Of its batches, unless it is set: they take no time there."""
ADMIN_PROJECT = "default"


@dataclass(frozen=True, slots=True, kw_only=True)
class Up:
    """What `up` tells its user once it serves."""

    url: str
    data: DataFolder
    admin_key: str
    admin_key_is_new: bool
    simulator_url: str | None
    local_models: tuple[str, ...]
    """The models that run in this very process."""


async def serve(
    settings: Settings,
    *,
    host: str,
    port: int,
    on_ready: Callable[[Up], None],
    on_stop: Callable[[], None],
    on_dead: OnDead,
) -> None:
    """Run until a signal. Raises SettingsError before anything is served."""
    if settings.database_url is not None:
        raise SettingsError(
            "TOLLGATE_DATABASE_URL is set, and `tollgate up` keeps its own SQLite file: it would take a running "
            "installation's tasks for its own. Unset it, or run `tollgate gateway`, `worker` and `beat`"
        )
    folder = DataFolder(settings.data)
    with folder.lock(), contextlib.closing(http_server.bind(host, port)) as listener:
        settings = _with_master_key(settings, folder)
        async with contextlib.AsyncExitStack() as stack:
            settings, catalog = _with_local_model(settings, configuration.load_catalog(settings))
            serving.require(settings, catalog)
            catalog, settings, simulator = await _simulated(stack, settings, catalog)
            services = await _services(stack, settings, catalog, simulated=simulator is not None, on_dead=on_dead)
            admin_key, is_new = await _admin_key(services.database, configuration.master_keys(settings)[0], folder)
            url = http_server.address_of(listener)
            folder.save_address(url)
            stack.callback(folder.clear_address)
            up = Up(
                url=url,
                data=folder,
                admin_key=admin_key,
                admin_key_is_new=is_new,
                simulator_url=simulator.base_url if simulator else None,
                local_models=_served_here(settings, catalog),
            )

            def stopping() -> None:
                services.waiters.release()
                on_stop()

            collecting.seldom()
            await http_server.serve(create_app(services), listener, on_ready=lambda: on_ready(up), on_stop=stopping)


def _with_master_key(settings: Settings, folder: DataFolder) -> Settings:
    """The environment wins over the data folder, whose master key is made at the first start."""
    if settings.master_key is not None:
        return settings
    if folder.master_key_is_lost():
        raise SettingsError(
            f"{folder.path / 'master.key'} is missing or empty, and the keys in {folder.path} were made with it: put "
            "it back. If it is lost, revoke them (`tollgate keys list`, `keys revoke`) and remove admin.key: the next "
            "start makes new ones"
        )
    return settings.model_copy(update={"master_key": pydantic.SecretStr(folder.master_key(create=True))})


def _with_local_model(settings: Settings, catalog: Catalog) -> tuple[Settings, Catalog]:
    """Served beside the cloud's, under the name of its folder where models.toml has no local upstream for it."""
    if settings.model is None:
        return settings, catalog
    return serving.laned(settings, default=",".join(PLACES)), local_models.added(settings.model, catalog)


def _served_here(settings: Settings, catalog: Catalog) -> tuple[str, ...]:
    local = serving.chosen(settings, catalog)
    if local is None:
        return ()
    return tuple(m.name for m in catalog.models.values() if local.upstream in [route.upstream for route in m.routes])


async def _simulated(
    stack: contextlib.AsyncExitStack, settings: Settings, catalog: Catalog
) -> tuple[Catalog, Settings, Simulator | None]:
    """Where ZhipuAI has no key, its upstreams are the simulator."""
    keyless = [u for u in catalog.upstreams.values() if u.kind == "zhipu" and not secrets_of(u, settings.environment)]
    if not keyless:
        return catalog, settings, None
    prices = PriceTable(configuration.load_prices(settings))
    latency = SimulatorSettings(
        latency_s=settings.simulator_latency_s, latency_jitter_s=settings.simulator_latency_s / 2
    )
    simulator = await stack.enter_async_context(Simulator(latency, prices=prices))
    pointed = {u.name: replace(u, base_url=simulator.base_url, base_url_env=None) for u in keyless}
    environment = {**settings.environment, **{c.name: SIMULATOR_KEY for u in keyless for c in u.credentials[:1]}}
    catalog = replace(catalog, upstreams={**catalog.upstreams, **pointed})
    changed: dict[str, object] = {"environment": environment}
    if "upstream_batch_poll_s" not in settings.sources:
        changed["upstream_batch_poll_s"] = SIMULATED_POLL_S
    return catalog, settings.model_copy(update=changed), simulator


async def _services(
    stack: contextlib.AsyncExitStack, settings: Settings, catalog: Catalog, *, simulated: bool, on_dead: OnDead
) -> Services:
    """Everything in this process, started in the order of need; stopped in the opposite one."""
    database = Database.connect(settings.store_url)
    stack.push_async_callback(database.close)
    await migrate.upgrade(database)
    bus = MemoryBus()
    app = create_celery(MEMORY_BROKER, lanes=LANES)
    publisher = Publisher(app)
    stack.callback(publisher.close)
    services = await stack.enter_async_context(
        run_services(
            settings,
            catalog,
            database=database,
            bus=bus,
            publisher=publisher,
            masters=configuration.master_keys(settings),
            mode="embedded",
            simulated=simulated,
        )
    )
    beat = Beat(
        database=database,
        bus=bus,
        publisher=publisher,
        rules=await load_rules(database, catalog),
        courier=make_courier(settings, database),
    )
    await _take_over(database, beat)
    engine = await stack.enter_async_context(run_engine(settings, catalog, database=database, bus=bus, on_dead=on_dead))
    register_run(app, engine.offer)
    celery_worker = EmbeddedCelery(app)
    celery_worker.start()
    stack.callback(celery_worker.stop)
    await services.fleet.look()  # else the first tasks would find no worker
    await stack.enter_async_context(_running(beat))
    return services


async def _take_over(database: Database, beat: Beat) -> None:
    """The data folder's lock is ours, so every earlier worker is dead at once, and every hint is lost."""
    async with database.write() as connection:
        for worker in await leases.alive(connection):
            await leases.bury(connection, worker.id)
        await announce.forget_hints(connection)
    await beat.watch.rescue()


@contextlib.asynccontextmanager
async def _running(beat: Beat) -> AsyncIterator[None]:
    task = asyncio.create_task(beat.run(), name="beat")
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def _admin_key(database: Database, master: MasterKey, folder: DataFolder) -> tuple[str, bool]:
    """The data folder's admin key, made at the first start; whether it was."""
    kept = folder.admin_key()
    if kept is not None:
        return kept, False
    now = datetime.now(UTC)
    async with database.write() as connection:
        project = await keys.add_project(connection, ADMIN_PROJECT, now=now)
        made = Key(id=new_id().hex, project_id=project.id, project=project.name, name="admin", role=Role.ADMIN)
        await keys.add(connection, made, master=master.fingerprint, now=now)
    text = f"{made.id}.{derive_secret(master, key_id=made.id, version=1)}"
    folder.save_admin_key(text)
    return text, True
