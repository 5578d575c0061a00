"""Servers of chaos' own, one deployment a module, and the books after each test."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.acceptance.processes import Processes
from tests.broker.private_redis import BINARY
from tests.chaos import ledger, report
from tests.chaos.deployment import MASTER_KEY, ROOT, Deployment, Keys, serves
from tests.chaos.private_postgres import PrivatePostgres, find_binaries
from tests.conftest import absent

Settle = Callable[..., None]


@pytest.fixture(scope="session")
def chaos_postgres() -> Iterator[PrivatePostgres]:
    binaries = find_binaries()
    if binaries is None:
        absent("PostgreSQL's initdb", FileNotFoundError("not on the PATH, nor by pg_config"))
    server = PrivatePostgres(binaries)
    try:
        server.create()
        server.start()
        yield server
    finally:
        server.remove()


@pytest.fixture(scope="session")
def chaos_template(chaos_postgres: PrivatePostgres, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Keys]:
    """A migrated database to be cloned, and two admin keys in it: one with budgets, one without."""
    if BINARY is None:
        absent("redis-server", FileNotFoundError("not on the PATH"))
    name, processes = "template_of_chaos", Processes(tmp_path_factory.mktemp("template"))
    chaos_postgres.execute(f"CREATE DATABASE {name}")
    environment = {
        "TOLLGATE_DATABASE_URL": chaos_postgres.url(name),
        "TOLLGATE_MASTER_KEY": MASTER_KEY,
        "PYTHONPATH": str(ROOT),
    }
    migrated = processes.run("tollgate", "migrate", environment=environment)
    assert migrated.returncode == 0, migrated.stderr
    create = ("keys", "create", "--project", "default", "--role", "admin", "--json")
    keys = []
    for _ in range(2):
        made = processes.run("tollgate", *create, environment=environment)
        assert made.returncode == 0, made.stderr
        keys.append(json.loads(made.stdout))
    # Wide enough for all: what is reserved, spent and released in them must be right to the last unit.
    for budget in (("--period", "day", "--cost", "1000000"), ("--period", "total", "--tokens", "1000000000")):
        of = ("--project", "default", "--key", keys[0]["id"])
        limited = processes.run("tollgate", "budgets", "set", *of, *budget, environment=environment)
        assert limited.returncode == 0, limited.stderr
    return name, (keys[0]["key"], keys[1]["key"])


@pytest.fixture(scope="module")
def bare_deployment(
    request: pytest.FixtureRequest,
    chaos_postgres: PrivatePostgres,
    chaos_template: tuple[str, Keys],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Deployment]:
    """Servers and the simulator, but none of Tollgate's processes. A module's `PATIENCE_S` is its workers'."""
    template, keys = chaos_template
    name = request.module.__name__.rpartition(".")[2]
    if not chaos_postgres.runs:
        chaos_postgres.start()
    chaos_postgres.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
    deployment = Deployment(
        tmp_path_factory.mktemp(name),
        postgres=chaos_postgres,
        database=name,
        keys=keys,
        patience_s=getattr(request.module, "PATIENCE_S", 60),
    )
    deployment.open()
    try:
        yield deployment
    finally:
        deployment.close()


@pytest.fixture(scope="module")
def deployment(bare_deployment: Deployment) -> Deployment:
    """The commands of docker-compose.yml: a gateway, two workers, and two beats, which is one more than is needed."""
    started = [
        bare_deployment.start_gateway(),
        *(bare_deployment.start_worker() for _ in range(2)),
        *(bare_deployment.start_beat() for _ in range(2)),
    ]
    for process in started:
        serves(process)
    return bare_deployment


@pytest.fixture
def settle(request: pytest.FixtureRequest) -> Settle:
    """Wait for the end of everything, report what was done to it, and prove the books."""

    def settle_up(deployment: Deployment, *, limit_s: float = 60, **done: Any) -> None:
        try:
            deployment.until_ended(limit_s=limit_s)
        finally:
            books = deployment.books()
            report.write(request.config, request.node.name, {**done, **books.summary()})
        ledger.require_balance(books, accepted=deployment.accepted)
        reconciled = deployment.reconcile()
        assert reconciled.returncode == 0, reconciled.stdout + reconciled.stderr

    return settle_up


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A module has one deployment: its tests stay together where tests are spread over processes."""
    for item in items:
        if "tests/chaos/" in item.nodeid:
            item.add_marker(pytest.mark.xdist_group(item.nodeid.partition("::")[0]))


@pytest.fixture(autouse=True)
def _healed(request: pytest.FixtureRequest) -> None:
    """A test that failed in the middle of an outage leaves none to the next."""
    if "deployment" in request.fixturenames:
        deployment: Deployment = request.getfixturevalue("deployment")
        deployment.heal()
