"""What every route works with, built once at the start and passed down."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Annotated

import fastapi

from gateway.authentication import Keyring
from gateway.batches import tokens
from gateway.batches.intake import BatchIntake
from gateway.batches.steps import Stepper
from gateway.batches.tokens import Tokenizers
from gateway.files.folder import FileStore, Folder
from gateway.files.tidying import Tidier
from gateway.fleet import Fleet
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
    fleet: Fleet
    intake: Intake
    reader: Reader
    waiters: Waiters
    watches: Watches
    files: FileStore
    batch_intake: BatchIntake
    tokenizers: Tokenizers
    mode: str = "distributed"
    simulated: bool = False
    """ZhipuAI is the simulator: nothing is really bought."""

    def upstream_kind(self, model: object) -> str:
        """Whose words `model` is asked in; "" for what is no name. Raises UnknownModelError."""
        return upstream_kind(self.catalog, model)


def upstream_kind(catalog: Catalog, model: object) -> str:
    """Of the upstream that runs `model` first. A model on one's own device understands ZhipuAI's words, too: where
    those are its fallback's, it is asked in them."""
    if not isinstance(model, str) or not model:
        return ""
    kinds = [catalog.upstreams[route.upstream].kind for route in catalog.find(model).routes]
    return "zhipu" if kinds[0] == "local" and "zhipu" in kinds else kinds[0]


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
    tokens.require(catalog)
    await migrate.require_current(database)
    async with database.read() as connection:
        await keys.check_masters(connection, [master.fingerprint for master in masters])
    await price_list.publish_all(database, configuration.load_prices(settings))
    limits = Limits(task_timeout_s=settings.task_timeout_s, callbacks=settings.callback_rules)
    prices = PriceBook(database)
    fleet = Fleet(database, catalog)
    intake = Intake(database, publisher, catalog=catalog, limits=limits, prices=prices, fleet=fleet)
    limiter = Limiter(rates or MemoryRates())
    waiters = Waiters(database, bus)
    folder = Folder(settings.files_folder)
    tidier = Tidier(database, folder)
    stepper = Stepper(
        folder,
        catalog=catalog,
        limits=limits,
        upstream_kind=functools.partial(upstream_kind, catalog),
        max_line_bytes=settings.max_line_bytes,
    )
    batch_intake = BatchIntake(database, folder, stepper)
    await bus.start()
    await prices.start()
    await fleet.start()
    waiters.start()
    tidier.start()
    batch_intake.start()
    try:
        yield Services(
            settings=settings,
            database=database,
            catalog=catalog,
            bus=bus,
            keyring=Keyring(database, masters),
            limiter=limiter,
            fleet=fleet,
            intake=intake,
            reader=Reader(database),
            waiters=waiters,
            watches=Watches(bus),
            files=folder,
            batch_intake=batch_intake,
            tokenizers=Tokenizers(),
            mode=mode,
            simulated=simulated,
        )
    finally:
        await batch_intake.stop()
        await tidier.stop()
        await waiters.stop()
        await limiter.drain()
        await intake.drain()
        await fleet.stop()
        await prices.stop()


def services_of(request: fastapi.Request) -> Services:
    services: Services = request.app.state.services
    return services


async def _services(request: fastapi.Request) -> Services:
    """Async, though it waits for nothing: FastAPI runs a plain function in a thread, at half the gateway's speed."""
    return services_of(request)


ServicesDep = Annotated[Services, fastapi.Depends(_services)]
