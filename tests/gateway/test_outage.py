"""A database that refuses connections: told at once, and as what passes."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import httpx2
import pytest

from gateway.authentication import Keyring
from gateway.fleet import Fleet
from gateway.intake import Intake
from gateway.prices import PriceBook
from gateway.reading import Reader
from tests.gateway.gate import V4, Gate, chat, one, refusal
from tollgate.broker.celery_app import MEMORY_BROKER, create_celery
from tollgate.broker.publisher import Publisher
from tollgate.domain.admission import Limits
from tollgate.domain.lanes import LANES
from tollgate.store.database import Database

NOBODY = "postgresql://nobody:password@127.0.0.1:1/nothing"
ID = "00000000-0000-7000-8000-000000000000"
ROUTES = [
    ("POST", "/tasks", one()),
    ("POST", "/tasks", [one()]),
    ("GET", "/tasks", None),
    ("GET", f"/tasks?id={ID}&wait=1", None),
    ("GET", f"/tasks/{ID}", None),
    ("POST", f"/tasks/{ID}/cancel", None),
    ("GET", "/files", None),
    ("POST", "/files", {}),
    ("DELETE", f"/files/{ID}", None),
    ("GET", V4 + f"/files/{ID}/content", None),
    ("GET", "/usage", None),
    ("GET", "/budgets", None),
    ("GET", "/models", None),
    ("POST", V4 + "/chat/completions", chat()),
    ("POST", V4 + "/async/chat/completions", chat()),
    ("GET", V4 + f"/async-result/{ID}", None),
]


@contextlib.asynccontextmanager
async def away(gate: Gate, *, keys_too: bool) -> AsyncIterator[None]:
    """The gateway's database has gone. Without `keys_too` it still knows the keys that it saw."""
    before, database = gate.services, Database.connect(NOBODY)
    publisher = Publisher(create_celery(MEMORY_BROKER, lanes=LANES))
    gone = replace(
        before,
        database=database,
        reader=Reader(database),
        intake=Intake(
            database,
            publisher,
            catalog=before.catalog,
            limits=Limits(),
            prices=PriceBook(database),
            fleet=Fleet(database, before.catalog),
        ),
        keyring=Keyring(database, [before.keyring.first_master]) if keys_too else before.keyring,
    )
    gate.app.state.services = gone
    try:
        yield
    finally:
        gate.app.state.services = before
        publisher.close()
        await database.close()


def is_told(response: httpx2.Response) -> None:
    assert response.headers["Retry-After"] == "2"
    refused = refusal(response, 503)
    assert (refused.get("type"), refused.get("code")) in (("unavailable", None), (None, "1120"))
    assert not {"nobody", "password"} & set(refused["message"].split())


@pytest.mark.parametrize("keys_too", [True, False])
@pytest.mark.parametrize(("method", "path", "body"), ROUTES)
async def test_every_route_answers_503_with_retry_after(
    sqlite_gate: Gate, method: str, path: str, body: Any, keys_too: bool
) -> None:
    caller = await sqlite_gate.caller()
    await caller.get("/models")
    async with away(sqlite_gate, keys_too=keys_too):
        is_told(await caller.send(method, path, body=body))


async def test_it_is_alive_but_not_ready_and_serves_again_when_the_database_is_back(gate: Gate) -> None:
    caller = await gate.caller()
    async with away(gate, keys_too=True):
        assert (await gate.http.get("/healthz")).json() == {"status": "ok"}
        response = await gate.http.get("/readyz")
        assert (response.status_code, response.headers["Retry-After"]) == (503, "2")
        assert response.json()["status"] == "unready"
        assert "does not answer" in response.json()["problem"]
        is_told(await caller.send("POST", "/tasks", body=one()))
    assert (await gate.http.get("/readyz")).json()["status"] == "ready"
    await caller.submit(one())
