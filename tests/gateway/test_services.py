"""What a gateway of the distributed mode opens by its settings, and what stops its start."""

from __future__ import annotations

import asyncio
import base64
import json

import httpx2
import pytest
import redis.asyncio

from gateway import create_app
from gateway.services import open_services
from tests.gateway.gate import LIMIT_S, MASTER_KEY, Gate, one
from tollgate import settings as settings_module
from tollgate.domain.errors import SettingsError, StoreUnavailableError


def environment(**changes: str | None) -> dict[str, str]:
    plain = {"TOLLGATE_MASTER_KEY": MASTER_KEY, "TOLLGATE_REDIS_URL": "redis://127.0.0.1:1/0"}
    return {name: value for name, value in {**plain, **changes}.items() if value is not None}


async def test_a_submission_leaves_its_hint_in_redis(
    postgres_url: str, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = environment(TOLLGATE_DATABASE_URL=postgres_url, TOLLGATE_REDIS_URL=redis_url)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    app = create_app()
    async with app.router.lifespan_context(app), redis.asyncio.Redis.from_url(redis_url) as broker:
        transport = httpx2.ASGITransport(app=app)
        async with httpx2.AsyncClient(transport=transport, base_url="http://gate") as http:
            gate = Gate(app=app, services=app.state.services, http=http)
            caller = await gate.caller()
            assert (await http.get("/readyz")).json()["bus"] == "ok"
            made = await caller.submit(one(model="glm-4-flash"))
            async with asyncio.timeout(LIMIT_S):
                popped = await broker.blpop(["cloud.interactive"])
    assert popped is not None
    (lane, hints), _, _ = json.loads(base64.b64decode(json.loads(popped[1])["body"]))
    assert (lane, hints) == ("cloud.interactive", {"zhipu/glm-4-flash": [made["id"]]})


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"TOLLGATE_REDIS_URL": None}, "TOLLGATE_REDIS_URL is not set"),
        ({"TOLLGATE_MASTER_KEY": None}, "TOLLGATE_MASTER_KEY is not set"),
        ({"TOLLGATE_MASTER_KEY": "short"}, "32 are needed"),
        ({"TOLLGATE_MODELS_FILE": "/no/such/file"}, "TOLLGATE_MODELS_FILE"),
        ({"TOLLGATE_PRICES_FILE": "/no/such/file"}, "TOLLGATE_PRICES_FILE"),
    ],
)
async def test_a_wrong_setting_stops_the_start_and_is_named(
    sqlite_url: str, changes: dict[str, str | None], told: str
) -> None:
    settings = settings_module.load(environment(TOLLGATE_DATABASE_URL=sqlite_url, **changes))
    with pytest.raises(SettingsError, match=told):
        async with open_services(settings):
            pass


async def test_a_database_that_is_not_migrated_stops_the_start(empty_postgres_url: str) -> None:
    settings = settings_module.load(environment(TOLLGATE_DATABASE_URL=empty_postgres_url))
    with pytest.raises(SettingsError, match="migrate"):
        async with open_services(settings):
            pass


async def test_a_master_key_that_made_none_of_the_keys_stops_the_start(gate: Gate) -> None:
    await gate.key()
    url = gate.services.settings.database_url
    other = environment(TOLLGATE_DATABASE_URL=url, TOLLGATE_MASTER_KEY="another" * 10)
    with pytest.raises(SettingsError, match="fingerprint"):
        async with open_services(settings_module.load(other)):
            pass


async def test_a_database_that_is_away_stops_the_start() -> None:
    settings = settings_module.load(environment(TOLLGATE_DATABASE_URL="postgresql://nobody@127.0.0.1:1/nothing"))
    with pytest.raises(StoreUnavailableError):
        async with open_services(settings):
            pass
