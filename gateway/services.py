"""What every route works with, built once at the start and passed down."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Annotated

import fastapi

from gateway.authentication import Keyring
from gateway.intake import Intake
from gateway.limiting import Limiter
from gateway.prices import PriceBook
from gateway.reading import Reader
from gateway.waiting import Waiters
from gateway.watching import Watches
from tollgate import collecting, configuration
from tollgate.broker.bus import Bus, open_bus
from tollgate.broker.celery_app import create_celery
from tollgate.broker.publisher import Publisher
from tollgate.broker.rates import MemoryRates, Rates, open_rates
from tollgate.domain.admission import Limits
from tollgate.domain.errors import SettingsError
from tollgate.domain.keys import MasterKey
from tollgate.domain.lanes import LANES
from tollgate.domain.routing import Catalog
from tollgate.settings import Settings
from tollgate.store import keys, migrate, price_list
from tollgate.store.database import Database


@dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    settings: Settings
    database: Database
    catalog: Catalog
    bus: Bus
    keyring: Keyring
    limiter: Limiter
    intake: Intake
    reader: Reader
    waiters: Waiters
    watches: Watches
    mode: str = "distributed"
    simulated: bool = False
    """ZhipuAI is the simulator: nothing is really bought."""

    def upstream_kind(self, model: object) -> str:
        """Of the upstream that runs `model` first; "" for what is no name. Raises UnknownModelError."""
        if not isinstance(model, str) or not model:
            return ""
        return self.catalog.upstreams[self.catalog.find(model).routes[0].upstream].kind


@contextlib.asynccontextmanager
async def open_services(settings: Settings) -> AsyncIterator[Services]:
    """The services of a gateway of the distributed mode. Raises SettingsError before anything is served."""
    broker_url = settings.celery_broker_url
    if broker_url is None:
        raise SettingsError(
            "TOLLGATE_REDIS_URL is not set: write redis://host:6379/0 (or run `tollgate up`, which needs none)"
        )
    catalog = configuration.load_catalog(settings)
    masters = configuration.master_keys(settings)
    database = Database.connect(settings.store_url, pool=settings.database_pool)
    bus = open_bus(settings.redis_url)
    rates = open_rates(settings.redis_url)
    publisher = Publisher(create_celery(broker_url, lanes=LANES, publishes_only=True))
    try:
        async with run_services(
            settings, catalog, database=database, bus=bus, publisher=publisher, masters=masters, rates=rates
        ) as services:
            collecting.seldom()
            yield services
    finally:
        publisher.close()
        await rates.close()
        await bus.close()
        await database.close()


@contextlib.asynccontextmanager
async def run_services(
    settings: Settings,
    catalog: Catalog,
    *,
    database: Database,
    bus: Bus,
    publisher: Publisher,
    masters: tuple[MasterKey, ...],
    rates: Rates | None = None,
    mode: str = "distributed",
    simulated: bool = False,
) -> AsyncIterator[Services]:
    """Services on a given database, bus and publisher, checked before they are used. Without `rates` this process
    counts them for itself."""
    await migrate.require_current(database)
    async with database.read() as connection:
        await keys.check_masters(connection, [master.fingerprint for master in masters])
    await price_list.publish_all(database, configuration.load_prices(settings))
    limits = Limits(task_timeout_s=settings.task_timeout_s, callbacks=settings.callback_rules)
    prices = PriceBook(database)
    intake = Intake(database, publisher, catalog=catalog, limits=limits, prices=prices)
    limiter = Limiter(rates or MemoryRates())
    waiters = Waiters(database, bus)
    await bus.start()
    await prices.start()
    waiters.start()
    try:
        yield Services(
            settings=settings,
            database=database,
            catalog=catalog,
            bus=bus,
            keyring=Keyring(database, masters),
            limiter=limiter,
            intake=intake,
            reader=Reader(database),
            waiters=waiters,
            watches=Watches(bus),
            mode=mode,
            simulated=simulated,
        )
    finally:
        await waiters.stop()
        await limiter.drain()
        await intake.drain()
        await prices.stop()


def services_of(request: fastapi.Request) -> Services:
    services: Services = request.app.state.services
    return services


async def _services(request: fastapi.Request) -> Services:
    """Async, though it waits for nothing: FastAPI runs a plain function in a thread, at half the gateway's speed."""
    return services_of(request)


ServicesDep = Annotated[Services, fastapi.Depends(_services)]
