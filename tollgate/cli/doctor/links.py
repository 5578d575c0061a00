"""The broker and the event bus."""

from __future__ import annotations

import asyncio

from tollgate.cli.doctor.configured import masked_url
from tollgate.cli.doctor.report import Check, fail, ok
from tollgate.settings import Settings

TIMEOUT_S = 2


def check(settings: Settings) -> list[Check]:
    """Redis, or the statement that the embedded mode needs none."""
    if settings.celery_broker_url is None:
        return [ok("broker and bus", "inside the process of `tollgate up`; TOLLGATE_REDIS_URL is not set")]
    return [_broker(settings.celery_broker_url), _bus(settings)]


def _broker(url: str) -> Check:
    import kombu

    options = {"socket_timeout": TIMEOUT_S, "socket_connect_timeout": TIMEOUT_S}
    try:
        with kombu.Connection(url, connect_timeout=TIMEOUT_S, transport_options=options) as connection:
            connection.ensure_connection(max_retries=1, interval_start=0, timeout=TIMEOUT_S)
    except Exception as error:  # whatever the broker's client raises
        return fail("broker", f"{masked_url(url)}: {_first_line(error)}", fix=_fix("TOLLGATE_BROKER_URL"))
    return ok("broker", f"{masked_url(url)} answers")


def _bus(settings: Settings) -> Check:
    from tollgate.broker.bus import open_bus

    async def ping() -> None:
        bus = open_bus(settings.redis_url)
        try:
            await bus.ping()
        finally:
            await bus.close()

    if settings.redis_url is None:
        fix = "set TOLLGATE_REDIS_URL: without it several processes learn of ends and cancels seconds late"
        return fail("event bus", "TOLLGATE_REDIS_URL is not set, only TOLLGATE_BROKER_URL", fix=fix)
    try:
        asyncio.run(ping())
    except ConnectionError as error:
        return fail(
            "event bus", f"{masked_url(settings.redis_url)}: {_first_line(error)}", fix=_fix("TOLLGATE_REDIS_URL")
        )
    return ok("event bus", f"{masked_url(settings.redis_url)} answers")


def _fix(variable: str) -> str:
    return f"start it, or correct {variable}. Until then accepted tasks wait; none is lost"


def _first_line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
