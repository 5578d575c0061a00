"""Both ways to run Tollgate, as real processes in front of the simulator."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.acceptance.processes import Process, Processes

MASTER_KEY = "a-master-key-of-the-acceptance-tests-0123456789"


@dataclass(kw_only=True)
class Deployment:
    """A running Tollgate."""

    url: str
    key: str
    processes: Processes
    environment: dict[str, str]
    server: Process
    """The embedded process, or the gateway."""
    simulator_url: str

    @property
    def client(self) -> httpx2.Client:
        return httpx2.Client(base_url=self.url, headers={"Authorization": f"Bearer {self.key}"}, timeout=60)

    def get(self, path: str, **parameters: Any) -> Any:
        with self.client as client:
            answer = client.get(path, params=parameters)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def post(self, path: str, body: Any, *, status: int | None = 202) -> Any:
        """The parsed answer, which must have `status`; None: any."""
        with self.client as client:
            answer = client.post(path, json=body)
        assert status is None or answer.status_code == status, answer.text
        return answer.json()

    def bill(self) -> Any:
        return httpx2.get(f"{self.simulator_url}/simulator/bill").json()

    def set_simulator(self, **settings: Any) -> None:
        answer = httpx2.put(f"{self.simulator_url}/simulator/settings", content=json.dumps(settings))
        assert answer.status_code == 200, answer.text


@pytest.fixture
def processes(tmp_path: Path) -> Iterator[Processes]:
    started = Processes(tmp_path)
    yield started
    codes = list(started.stop_all())
    assert all(code in (0, -9) for code in codes), f"exit codes {codes}: see the logs in {tmp_path}"


@pytest.fixture
def simulator_url(processes: Processes) -> str:
    process = processes.start("tollgate", "simulator", "--port", "0", "--latency", "0.01", environment={})
    return process.wait_for(r"http://[\d.]+:\d+").group()


@pytest.fixture
def embedded(processes: Processes, simulator_url: str, tmp_path: Path) -> Deployment:
    """`tollgate up` on a data folder of its own."""
    environment = {
        "TOLLGATE_DATA": str(tmp_path / "data"),
        "ZHIPUAI_API_KEY": "acceptance.key",
        "TOLLGATE_ZHIPU_BASE_URL": f"{simulator_url}/api/paas/v4",
    }
    server = processes.start("tollgate", "up", "--port", "0", environment=environment)
    url = server.wait_for(r"serves on (http://\S+)").group(1)
    key = (tmp_path / "data" / "admin.key").read_text().strip()
    return Deployment(
        url=url, key=key, processes=processes, environment=environment, server=server, simulator_url=simulator_url
    )


@pytest.fixture
def distributed_environment(empty_postgres_url: str, redis_url: str, simulator_url: str) -> dict[str, str]:
    return {
        "TOLLGATE_DATABASE_URL": empty_postgres_url,
        "TOLLGATE_REDIS_URL": redis_url,
        "TOLLGATE_MASTER_KEY": MASTER_KEY,
        "ZHIPUAI_API_KEY": "acceptance.key",
        "TOLLGATE_ZHIPU_BASE_URL": f"{simulator_url}/api/paas/v4",
    }


@pytest.fixture
def distributed(processes: Processes, distributed_environment: dict[str, str], simulator_url: str) -> Deployment:
    """The commands of docker-compose.yml, with Celery's own command for the worker."""
    environment = distributed_environment
    migrated = processes.run("tollgate", "migrate", environment=environment)
    assert migrated.returncode == 0, migrated.stderr
    made = processes.run(
        "tollgate", "keys", "create", "--project", "default", "--role", "admin", "--json", environment=environment
    )
    assert made.returncode == 0, made.stderr
    worker = processes.start("celery", "-A", "worker", "worker", "--loglevel", "info", environment=environment)
    beat = processes.start("tollgate", "beat", environment=environment)
    server = processes.start("tollgate", "gateway", "--port", "0", environment=environment)
    url = server.wait_for(r"serves on (http://\S+)").group(1)
    worker.wait_for(r"ready\.")
    beat.wait_for("beat runs")
    return Deployment(
        url=url,
        key=json.loads(made.stdout)["key"],
        processes=processes,
        environment=environment,
        server=server,
        simulator_url=simulator_url,
    )


@pytest.fixture(params=["embedded", "distributed"])
def deployment(request: pytest.FixtureRequest) -> Deployment:
    running: Deployment = request.getfixturevalue(request.param)
    return running
