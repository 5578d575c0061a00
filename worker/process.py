"""A worker process put together from the settings."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import AsyncIterator

import celery

from tollgate import configuration
from tollgate.broker.bus import Bus, open_bus
from tollgate.broker.celery_app import create_celery
from tollgate.broker.publisher import Publisher
from tollgate.domain import lanes
from tollgate.domain.errors import SettingsError
from tollgate.domain.routing import Catalog
from tollgate.settings import Settings
from tollgate.store import keys, migrate, price_list
from tollgate.store.database import Database
from worker.beat import Beat
from worker.billing import Rules
from worker.celery_run import START_TIMEOUT_S, add_engine
from worker.engine import Engine
from worker.restart import stop_process
from worker.upstream_batches import buying
from worker.upstreams import registry
from worker.upstreams.local import serving
from worker.upstreams.local.serving import OnDead
from worker.webhooks.courier import Courier
from worker.webhooks.post import Post

NO_BROKER = "TOLLGATE_REDIS_URL is not set: write redis://host:6379/0 (or run `tollgate up`, which needs none)"
BEAT_POOL = 5
"""Its loops use a connection each, and so does what came of deliveries."""


def create_worker_app(settings: Settings, catalog: Catalog, *, on_dead: OnDead = stop_process) -> celery.Celery:
    """The Celery app of a worker. `on_dead`: of its local engine. Raises SettingsError."""
    broker = settings.celery_broker_url
    if broker is None:
        raise SettingsError(NO_BROKER)
    settings = serving.laned(settings, default=serving.LOCAL)
    serving.require(settings, catalog)
    app = create_celery(broker, lanes=lanes.expand(settings.lanes))
    add_engine(
        app,
        lambda: open_engine(settings, catalog, on_dead=on_dead),
        start_timeout_s=START_TIMEOUT_S + (serving.LOAD_TIMEOUT_S if settings.model else 0),
        drain_timeout_s=settings.drain_timeout_s,
    )
    return app


@contextlib.asynccontextmanager
async def open_engine(settings: Settings, catalog: Catalog, *, on_dead: OnDead) -> AsyncIterator[Engine]:
    """A running engine with a database and a bus of its own."""
    database = Database.connect(settings.store_url, pool=settings.database_pool)
    bus = open_bus(settings.redis_url)
    try:
        await migrate.require_current(database)
        async with run_engine(settings, catalog, database=database, bus=bus, on_dead=on_dead) as engine:
            yield engine
    finally:
        await bus.close()
        await database.close()


@contextlib.asynccontextmanager
async def run_engine(
    settings: Settings, catalog: Catalog, *, database: Database, bus: Bus, on_dead: OnDead = stop_process
) -> AsyncIterator[Engine]:
    """A running engine on a given database and bus, its local model loaded before it registers. Raises SettingsError,
    StoreUnavailableError."""
    rules = await load_rules(database, catalog)
    async with serving.local_upstreams(settings, catalog, on_dead=on_dead) as local:
        engine = Engine(
            database=database,
            database_url=settings.store_url,
            bus=bus,
            upstreams=registry.connect(catalog, environment=settings.environment, local=local),
            rules=rules,
            name=f"{socket.gethostname()}:{os.getpid()}",
            lanes=lanes.expand(settings.lanes),
            max_in_flight=settings.max_in_flight,
        )
        await engine.start()
        try:
            async with buying.upstream_batches(settings, catalog, engine, database=database, bus=bus, rules=rules):
                yield engine
        finally:
            await engine.stop(drain_timeout_s=settings.drain_timeout_s)


async def load_rules(database: Database, catalog: Catalog) -> Rules:
    """The rules by the price versions published so far, and the fallbacks of `catalog`."""
    async with database.read() as connection:
        return Rules(prices=await price_list.load(connection), catalog=catalog)


def make_courier(settings: Settings, database: Database) -> Courier:
    """Not yet sending. Raises SettingsError: it signs with what the master key gives."""
    return Courier(
        database,
        masters=configuration.master_keys(settings),
        post=Post(settings.callback_rules),
        currency=settings.currency,
    )


@contextlib.asynccontextmanager
async def open_beat(settings: Settings, catalog: Catalog) -> AsyncIterator[Beat]:
    """A beat of the distributed mode, not yet running. Raises SettingsError."""
    if settings.celery_broker_url is None:
        raise SettingsError(NO_BROKER)
    masters = configuration.master_keys(settings)
    database = Database.connect(settings.store_url, pool=BEAT_POOL)
    bus = open_bus(settings.redis_url)
    publisher = Publisher(create_celery(settings.celery_broker_url, lanes=lanes.LANES, publishes_only=True))
    try:
        await migrate.require_current(database)
        async with database.read() as connection:
            await keys.check_masters(connection, [master.fingerprint for master in masters])
        rules = await load_rules(database, catalog)
        courier = make_courier(settings, database)
        yield Beat(database=database, bus=bus, publisher=publisher, rules=rules, courier=courier)
    finally:
        publisher.close()
        await bus.close()
        await database.close()
