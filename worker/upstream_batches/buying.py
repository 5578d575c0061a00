"""Puts the buying of upstream batches together, beside an engine whose lease it shares."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Mapping

from tollgate.broker.bus import Bus
from tollgate.domain import lanes
from tollgate.domain.routing import Catalog
from tollgate.settings import Settings
from tollgate.store.database import Database
from tollgate.store.upstream_batches import Account
from worker.billing import Rules
from worker.credentials import Credentials
from worker.engine import Engine
from worker.settler import Settler
from worker.upstream_batches.buyer import Limits, UpstreamBatches
from worker.upstream_batches.cloud import Cloud
from worker.upstream_batches.course import Course, Pace
from worker.upstream_batches.harvest import Harvest
from worker.upstreams import registry

LANE = "cloud.bulk"
"""A worker that serves it buys batches, too."""


@contextlib.asynccontextmanager
async def upstream_batches(
    settings: Settings, catalog: Catalog, engine: Engine, *, database: Database, bus: Bus, rules: Rules
) -> AsyncIterator[None]:
    """Buys for as long as the block runs, if this worker serves the lane and has a key of ZhipuAI's."""
    clouds = clouds_of(catalog, environment=settings.environment)
    if LANE not in lanes.expand(settings.lanes) or not clouds:
        yield
        return
    pace = Pace(poll_s=settings.upstream_batch_poll_s)
    limits = Limits(open_max=settings.upstream_batches_open)
    buyer = make(engine, clouds, database=database, bus=bus, rules=rules, pace=pace, limits=limits)
    buyer.start()
    try:
        yield
    finally:
        await buyer.stop()


def make(
    engine: Engine,
    clouds: Mapping[Account, Cloud],
    *,
    database: Database,
    bus: Bus,
    rules: Rules,
    pace: Pace,
    limits: Limits,
) -> UpstreamBatches:
    """Not yet buying."""
    settler = Settler(database, bus)
    course = Course(
        database,
        clouds=clouds,
        credentials=Credentials(database, engine.pauses),
        harvest=Harvest(database, settler=settler, rules=rules),
        may_send=engine.lease.may_send,
        pace=pace,
    )
    return UpstreamBatches(
        database,
        clouds=clouds,
        course=course,
        pauses=engine.pauses,
        rules=rules,
        settler=settler,
        lease=engine.lease,
        limits=limits,
        pace=pace,
    )


def clouds_of(catalog: Catalog, *, environment: Mapping[str, str]) -> dict[Account, Cloud]:
    """The accounts at upstreams that have batches, of those whose keys are set."""
    return {
        (spec.name, name): Cloud(base_url=registry.base_url_of(spec, environment), secret=secret)
        for spec in catalog.upstreams.values()
        if spec.kind == "zhipu"
        for name, secret in registry.secrets_of(spec, environment).items()
    }
