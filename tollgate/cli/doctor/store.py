"""The database, its schema, the master key, and what it knows of workers, pauses and routes."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

from tollgate.cli import installation
from tollgate.cli.doctor import routes, webhooks, workers
from tollgate.cli.doctor.configured import masked_url
from tollgate.cli.doctor.report import Check, fail, ok, warn
from tollgate.cli.output import count
from tollgate.domain import reach
from tollgate.domain.errors import SettingsError, StoreUnavailableError
from tollgate.domain.routing import Catalog
from tollgate.settings import Settings
from tollgate.store import deliveries, keys, leases, migrate, pauses
from tollgate.store import webhooks as webhook_store
from tollgate.store.database import Database
from tollgate.store.pauses import Pause

BETWEEN_HEARTBEATS_S = 6.0
"""A worker renews every 5 s."""
NO_CATALOG = Catalog(upstreams={}, models={})
PAUSE_FIXES = {
    "no_balance": "top up the account",
    "bad_key": "set a valid key and restart the workers",
    "account": "ask the upstream's support: the account is locked or closed",
    "plan": "renew or change the plan",
}


async def check(settings: Settings, catalog: Catalog | None, *, slow: bool) -> list[Check]:
    """All that can be read from the database."""
    missing = _missing_file(settings)
    if missing is not None:
        return [missing]
    database = Database.connect(settings.store_url, pool=1)
    try:
        checks = [await _reachable(database, settings)]
        if checks[0].state == "ok":
            checks.append(await _migrated(database))
        if checks[-1].state == "ok":
            checks.append(await _master(database, settings))
            checks.extend(await _workers(database, settings, catalog, slow=slow))
            checks.extend(await _pauses(database))
            checks.append(await _routes(database, catalog))
            checks.extend(await _webhooks(database, settings))
        return checks
    finally:
        await database.close()


def _missing_file(settings: Settings) -> Check | None:
    """To connect would make the file, and its folder; a doctor changes nothing."""
    if settings.database_url is not None or (settings.data / "tollgate.db").exists():
        return None
    return warn(
        "database",
        f"{settings.data / 'tollgate.db'} is not there yet",
        fix="`tollgate up` makes it at its first start; or set TOLLGATE_DATABASE_URL, or TOLLGATE_DATA",
    )


async def _reachable(database: Database, settings: Settings) -> Check:
    try:
        async with database.read():
            return ok("database", f"{masked_url(settings.store_url)} answers")
    except (StoreUnavailableError, SettingsError) as error:
        return fail("database", str(error), fix="start it, or correct TOLLGATE_DATABASE_URL")


async def _migrated(database: Database) -> Check:
    try:
        await migrate.require_current(database)
    except SettingsError as error:
        return fail("migrations", str(error), fix="tollgate migrate")
    return ok("migrations", f"at revision {migrate.head()}, as this version needs")


async def _master(database: Database, settings: Settings) -> Check:
    try:
        masters = installation.masters(settings)
        async with database.read() as connection:
            await keys.check_masters(connection, [master.fingerprint for master in masters])
            made = await keys.list_all(connection)
    except SettingsError as error:
        return fail("master key", str(error), fix="set TOLLGATE_MASTER_KEY to the one that made the keys")
    active = sum(one.key.revoked_at is None for one in made)
    if not active:
        return warn("master key", "good, but there is no API key yet", fix="tollgate keys create --project NAME")
    return ok("master key", f"fingerprint {masters[0].fingerprint} fits; {count(active, 'API key')}")


async def _workers(database: Database, settings: Settings, catalog: Catalog | None, *, slow: bool) -> list[Check]:
    async with database.read() as connection:
        before = await leases.alive(connection)
    advanced: frozenset[object] | None = None
    if slow and before:
        await asyncio.sleep(BETWEEN_HEARTBEATS_S)
        async with database.read() as connection:
            after = {worker.id: worker.heartbeat for worker in await leases.alive(connection)}
        advanced = frozenset(worker.id for worker in before if after.get(worker.id, 0) > worker.heartbeat)
    start = "tollgate up" if settings.celery_broker_url is None else "tollgate worker --lanes"
    return workers.check(before, catalog, now=datetime.now(UTC), advanced=advanced, start=start)


async def _pauses(database: Database) -> list[Check]:
    async with database.read() as connection:
        found = await pauses.read(connection)
    return [_pause(one) for one in found] or [ok("pauses", "no upstream is paused")]


async def _routes(database: Database, catalog: Catalog | None) -> Check:
    async with database.read() as connection:
        workers = await leases.alive(connection)
    return routes.check(reach.told(workers, catalog or NO_CATALOG))


async def _webhooks(database: Database, settings: Settings) -> list[Check]:
    now = datetime.now(UTC)
    async with database.read() as connection:
        waiting = await deliveries.waiting(connection, now=now)
        found = await webhook_store.in_force(connection)
    try:
        masters = {master.fingerprint for master in installation.masters(settings)}
    except SettingsError:  # its own check says so
        masters = {one.master for one in found}
    return webhooks.check(waiting, found, masters=masters, now=now)


def _pause(one: Pause) -> Check:
    fix = PAUSE_FIXES.get(one.reason, "see the upstream's account")
    since = one.since.astimezone(UTC).strftime("%Y-%m-%d %H:%M")
    return warn(
        f"pause {one.upstream}",
        f"{one.credential or 'without a key'}: {one.reason}, since {since} UTC",
        fix=f"{fix}; one task a minute tries again and lifts it",
    )
