"""A gateway in this process, on a database of its own; where a test needs an end, with a worker and the simulator."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import celery
import fastapi
import httpx2
import pydantic

from gateway import create_app
from gateway.services import Services, run_services
from tests.store import seeds
from tollgate import configuration
from tollgate.broker.bus import ENDED, Bus, MemoryBus
from tollgate.broker.celery_app import MEMORY_BROKER, RUN, create_celery
from tollgate.broker.publisher import Publisher
from tollgate.broker.rates import Rates
from tollgate.domain.ids import new_id
from tollgate.domain.keys import derive_secret
from tollgate.domain.lanes import LANES
from tollgate.domain.prices import PriceTable
from tollgate.domain.states import Role
from tollgate.domain.tasks import Key
from tollgate.settings import Settings
from tollgate.simulator import Simulator, SimulatorSettings
from tollgate.store import keys, price_list
from tollgate.store.claims import Claimed
from tollgate.store.database import Database
from tollgate.store.schema import tasks
from worker.embedded_celery import EmbeddedCelery
from worker.engine import Engine
from worker.process import run_engine

MASTER_KEY = "a-master-key-of-the-gateways-tests-0123456789"
LIMIT_S = 30.0
"""No test waits longer for anything."""
V4 = "/api/paas/v4"
MODELS = """
[[upstream]]
name = "zhipu"
kind = "zhipu"
base_url = "http://127.0.0.1:9/api/paas/v4"
base_url_env = "SIMULATOR"
keys = ["SIMULATOR_KEY"]
max_in_flight = 500

[[model]]
name = "glm-4.7"
routes = ["zhipu/glm-4.7"]
max_output_tokens = 131072

[[model]]
name = "glm-4-flash"
routes = ["zhipu/glm-4-flash"]
aliases = ["flash"]

[[model]]
name = "glm-new"
routes = ["zhipu/glm-new"]

[[model]]
name = "embedding-3"
routes = ["zhipu/embedding-3"]
endpoint = "embeddings"
"""
PRICES = """
currency = "CNY"

[[price]]
upstream = "zhipu"
model = "glm-4.7"
valid_from = 2024-01-01
input = "4"
output = "16"
cached = "1"

[[price]]
upstream = "zhipu"
model = "glm-4-flash"
valid_from = 2024-01-01
input = "0"
output = "0"
"""
UNPRICED = "glm-new"
ANSWER = (
    '{"id":"8000","request_id":"8001","created":1700000000,"model":"glm-4.7","choices":[{"index":0,"finish_reason":'
    '"stop","message":{"role":"assistant","content":"hi"}}],"usage":{"prompt_tokens":100,"completion_tokens":50,'
    '"total_tokens":150}}'
)


def one(prompt: str = "hello", **fields: Any) -> dict[str, Any]:
    """A task of POST /tasks."""
    return {"model": "glm-4.7", "prompt": prompt, **fields}


def chat(prompt: str = "hello", **fields: Any) -> dict[str, Any]:
    """A body of ZhipuAI's wire."""
    return {"model": "glm-4.7", "messages": [{"role": "user", "content": prompt}], **fields}


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """A client of the gateway, with one key."""

    http: httpx2.AsyncClient
    key: str

    async def send(
        self, method: str, path: str, *, body: Any = None, content: Any = None, params: Mapping[str, Any] | None = None
    ) -> httpx2.Response:
        """The answer, whatever it is."""
        return await self.http.request(
            method,
            path,
            json=body,
            content=content,
            params=params or None,
            headers={"Authorization": f"Bearer {self.key}"} if self.key else {},
        )

    async def get(self, path: str, **params: Any) -> Any:
        response = await self.send("GET", path, params=params)
        assert response.status_code == 200, response.text
        return response.json()

    async def post(self, path: str, body: Any = None, *, status: int = 200) -> Any:
        response = await self.send("POST", path, body=body)
        assert response.status_code == status, response.text
        return response.json()

    async def submit(self, body: Any, *, status: int = 202) -> Any:
        return await self.post("/tasks", body, status=status)

    async def id_of(self, **fields: Any) -> str:
        """Of a new task."""
        return str((await self.submit(one(**fields)))["id"])


async def until(condition: Callable[[], object], *, limit_s: float = LIMIT_S) -> None:
    """For what gives no signal when it comes to be so."""
    async with asyncio.timeout(limit_s):
        while not condition():  # noqa: ASYNC110 - a counter has no event
            await asyncio.sleep(0.002)


def refusal(response: httpx2.Response, status: int) -> dict[str, Any]:
    """Its error object, of the status that was expected."""
    assert response.status_code == status, response.text
    body = response.json()
    assert set(body) == {"error"}, "no `detail`, nothing beside"
    error: dict[str, Any] = body["error"]
    return error


@dataclass(frozen=True, slots=True, kw_only=True)
class Gate:
    """A running gateway."""

    app: fastapi.FastAPI
    services: Services
    http: httpx2.AsyncClient
    simulator: Simulator | None = None

    @property
    def database(self) -> Database:
        return self.services.database

    async def key(self, **changes: Any) -> str:
        """The text of a new key, `id.secret`, with these fields of Key."""
        stored = await self.stored_key(**changes)
        return f"{stored.id}.{derive_secret(self.services.keyring.first_master, key_id=stored.id, version=1)}"

    async def stored_key(self, *, project: str = "acme", **changes: Any) -> Key:
        now = datetime.now(UTC)
        async with self.database.write() as connection:
            owner = await keys.add_project(connection, project, now=now)
            plain = Key(id=new_id().hex, project_id=owner.id, project=project, name="test", role=Role.USER)
            made = replace(plain, **changes)
            await keys.add(connection, made, master=self.services.keyring.first_master.fingerprint, now=now)
        return made

    async def caller(self, **changes: Any) -> Caller:
        return Caller(http=self.http, key=await self.key(**changes))

    async def claim(self, task_id: str) -> Claimed:
        """It runs, in nobody's hands: it ends when the test settles it. A batch's line is told before."""
        async with self.database.write() as connection:
            untold = tasks.c.id == UUID(task_id), tasks.c.announced_at.is_(None)
            await connection.execute(tasks.update().where(*untold).values(announced_at=datetime.now(UTC)))
        (claimed,) = await seeds.claim(self.database, UUID(task_id), now=datetime.now(UTC))
        return claimed

    async def end(self, claimed: Claimed, *, cost_nano: int | None = 600_000, **changes: Any) -> None:
        """Settle what is claimed as a success, unless `changes` of its Settlement say otherwise; and tell the bus."""
        now = datetime.now(UTC)
        async with self.database.read() as connection:
            price = (await price_list.load(connection)).find("zhipu", "glm-4.7", at=now)
        assert price is not None
        bill = replace(seeds.BILL, price_id=price.id, price_tier=price.tiers[0].name, cost_nano=cost_nano)
        plain: dict[str, Any] = {"bill": bill, "result": ANSWER}
        await seeds.settle(self.database, seeds.success(claimed, **{**plain, **changes}), now=now)
        await self.services.bus.publish(ENDED, [claimed.id])

    async def succeed(self, task_id: str, **changes: Any) -> None:
        await self.end(await self.claim(task_id), **changes)

    async def fail(self, task_id: str, *, code: str = "1301", message: str = "refused") -> None:
        claimed = await self.claim(task_id)
        refused = seeds.failure(claimed, error_code=code, error_message=message)
        await seeds.settle(self.database, refused, now=datetime.now(UTC))
        await self.services.bus.publish(ENDED, [claimed.id])


def settings_for(database_url: str, folder: Path, **changes: Any) -> Settings:
    """With MODELS and PRICES, written into `folder`."""
    models, prices = folder / "models.toml", folder / "prices.toml"
    models.write_text(MODELS)
    prices.write_text(PRICES)
    plain: dict[str, Any] = {
        "database_url": database_url,
        "master_key": pydantic.SecretStr(MASTER_KEY),
        "models_file": models,
        "prices_file": prices,
        "drain_timeout_s": 1.0,
        "files": folder / "files",
    }
    return Settings(**{**plain, **changes})


@contextlib.asynccontextmanager
async def open_gate(
    database_url: str,
    folder: Path,
    *,
    bus: Bus | None = None,
    rates: Rates | None = None,
    simulator: SimulatorSettings | None = None,
    upstream: str | None = None,
    **changes: Any,
) -> AsyncIterator[Gate]:
    """A gateway with `changes` of its settings. With a simulator or an `upstream` there is a worker too."""
    async with contextlib.AsyncExitStack() as stack:
        settings = settings_for(database_url, folder, **changes)
        cloud = None
        if simulator is not None:
            table = PriceTable(configuration.load_prices(settings))
            cloud = await stack.enter_async_context(Simulator(simulator, prices=table))
            upstream = cloud.base_url
        environment = {"SIMULATOR": upstream or "", "SIMULATOR_KEY": "tests.secret"}
        settings = settings.model_copy(update={"environment": environment})
        database = Database.connect(database_url)
        stack.push_async_callback(database.close)
        services = await _services(stack, settings, database, bus or MemoryBus(), rates, works=bool(upstream))
        app = create_app(services)
        await stack.enter_async_context(app.router.lifespan_context(app))
        transport = httpx2.ASGITransport(app=app)
        http = await stack.enter_async_context(
            httpx2.AsyncClient(transport=transport, base_url="http://gate", timeout=60)
        )
        yield Gate(app=app, services=services, http=http, simulator=cloud)


async def _services(
    stack: contextlib.AsyncExitStack,
    settings: Settings,
    database: Database,
    bus: Bus,
    rates: Rates | None,
    *,
    works: bool,
) -> Services:
    catalog = configuration.load_catalog(settings)
    celery_app = create_celery(MEMORY_BROKER, lanes=LANES)
    # Celery's in-memory queues are the process's: what nobody took must not reach the next test's worker.
    stack.callback(celery_app.control.purge)
    publisher = Publisher(celery_app)
    stack.callback(publisher.close)
    services = await stack.enter_async_context(
        run_services(
            settings,
            catalog,
            database=database,
            bus=bus,
            publisher=publisher,
            masters=configuration.master_keys(settings),
            rates=rates,
        )
    )
    if works:
        engine = await stack.enter_async_context(run_engine(settings, catalog, database=database, bus=bus))
        _hand_over(celery_app, engine)
        celery_worker = EmbeddedCelery(celery_app)
        await asyncio.to_thread(celery_worker.start)
        stack.push_async_callback(asyncio.to_thread, celery_worker.stop)
    return services


def _hand_over(celery_app: celery.Celery, engine: Engine) -> None:
    """As `worker.celery_run.register_run`, but for one of many apps in this process.

    Celery shares a task with every app made later, and its threads run the task of the default app."""
    celery_app.set_default()

    @celery_app.task(name=RUN, shared=False, ignore_result=True)
    def run(lane: str, hints: Mapping[str, list[str]]) -> None:
        engine.offer(lane, {route: [UUID(text) for text in ids] for route, ids in hints.items()})
