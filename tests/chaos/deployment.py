"""Tollgate's processes in front of the simulator, on a database and a Redis that can be taken away."""

from __future__ import annotations

import itertools
import json
import re
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2
import redis

from tests.acceptance.processes import Process, Processes
from tests.broker.private_redis import PrivateRedis
from tests.chaos import books
from tests.chaos.books import Books
from tests.chaos.private_postgres import PrivatePostgres
from tests.chaos.proxy import Proxy

ROOT = Path(__file__).parents[2]
MASTER_KEY = "a-master-key-of-the-chaos-tests-0123456789"
LOOK_EVERY_S = 0.2
ACCEPTED_WITHIN_S = 20.0
LATENCY_S = 0.1
SERVES = re.compile(r"serves on|ready\.|beat runs")
"""What a gateway, a worker and a beat print when they are ready."""
Keys = tuple[str, str]
"""Of one project, used in turns: what comes by the first is held by budgets, and settled by another statement."""
MODELS = ("glm-4-air", "glm-4.7", "glm-4-plus")
MODELS_FILE = """
[[upstream]]
name = "zhipu"
kind = "zhipu"
base_url_env = "TOLLGATE_ZHIPU_BASE_URL"
keys = ["ZHIPUAI_API_KEY"]
max_in_flight = 64
first_byte_timeout_s = {patience_s}
total_timeout_s = {patience_s}
""" + "".join(f'\n[[model]]\nname = "{name}"\nroutes = ["zhipu/{name}"]\n' for name in MODELS)


def until(true: Callable[[], bool], what: str, *, limit_s: float, else_told: Callable[[], object] = str) -> float:
    """Seconds it took. For what other processes do, and give no signal of. `else_told`: what to look at when time is
    over."""
    began = time.monotonic()
    while not true():
        assert time.monotonic() - began < limit_s, f"not within {limit_s:.0f} s: {what} {else_told()}"
        time.sleep(LOOK_EVERY_S)
    return time.monotonic() - began


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


class Deployment:
    """`patience_s`: how long a worker waits for an answer of the upstream."""

    def __init__(self, folder: Path, *, postgres: PrivatePostgres, database: str, keys: Keys, patience_s: int) -> None:
        self.processes = Processes(folder)
        self.postgres, self._database = postgres, database
        self.redis = PrivateRedis(folder)
        self.store, self.broker = Proxy(postgres.port), Proxy(self.redis.port)
        self._keys = itertools.cycle(keys)
        self.port = free_port()
        self.accepted: set[str] = set()
        """Every id that a client was answered."""
        self.further_bills: list[str] = []
        """Addresses of simulators beside the first, which have bills of their own."""
        models = folder / "models.toml"
        models.write_text(MODELS_FILE.format(patience_s=patience_s))
        self.environment = {
            "TOLLGATE_DATABASE_URL": postgres.url(database, port=self.store.port),
            "TOLLGATE_REDIS_URL": f"redis://127.0.0.1:{self.broker.port}/0",
            "TOLLGATE_MASTER_KEY": MASTER_KEY,
            "TOLLGATE_MODELS_FILE": str(models),
            "ZHIPUAI_API_KEY": "chaos.key",
            "PYTHONPATH": str(ROOT),
        }

    def open(self) -> None:
        """The servers and the simulator; none of Tollgate's processes yet."""
        self.redis.start()
        self.store.start()
        self.broker.start()
        simulator = self.processes.start("tollgate", "simulator", "--port", "0", environment={"PYTHONPATH": str(ROOT)})
        self.simulator_url = simulator.wait_for(r"http://[\d.]+:\d+").group()
        self.environment["TOLLGATE_ZHIPU_BASE_URL"] = f"{self.simulator_url}/api/paas/v4"
        self.set_simulator(latency_s=LATENCY_S)

    def close(self) -> None:
        """Everything ends in health, so that the exit codes mean something. Raises AssertionError."""
        try:
            self.heal()
            running = [p for p in self.processes.started if p.exit_code is None]
            for process in running:
                process.ask_to_stop()
            codes = {process.log.name: process.wait_for_end() for process in running}
            assert not any(codes.values()), f"exit codes {codes}: see the logs in {self.processes.folder}"
        finally:
            for process in self.processes.started:
                process.kill()
                process.stop()
            self.redis.stop()
            self.store.stop()
            self.broker.stop()

    def heal(self) -> None:
        """Servers run, the network carries, the upstream is as at the start, nobody is frozen."""
        if not self.postgres.runs:
            self.postgres.start()
        if not self.redis.runs:
            self.redis.start()
        self.redis.thaw()
        self.store.heal()
        self.broker.heal()
        self.set_simulator(latency_s=LATENCY_S, faults={}, refuse_keys={}, max_in_flight=None, tokens_per_second=None)
        for process in self.processes.started:
            if process.exit_code is None:
                process.thaw()

    def start_gateway(self, *, die_at: str | None = None) -> Process:
        """Always on the same port, so clients find the next one."""
        return self._start("gateway", "--port", str(self.port), die_at=die_at)

    def start_worker(self, *, die_at: str | None = None, freeze_at: str | None = None, lanes: str = "cloud") -> Process:
        return self._start("worker", "--lanes", lanes, die_at=die_at, freeze_at=freeze_at)

    def start_celery(self) -> Process:
        """The worker by Celery's own command."""
        return self.processes.start(
            "celery", "-A", "worker", "worker", "--loglevel", "info", environment=self.environment
        )

    def start_beat(self, *, die_at: str | None = None) -> Process:
        return self._start("beat", die_at=die_at)

    def _start(self, *command: str, die_at: str | None, freeze_at: str | None = None) -> Process:
        struck = [*(["--die-at", die_at] if die_at else ()), *(["--freeze-at", freeze_at] if freeze_at else ())]
        launch = ["python", "-m", "tests.chaos.launch", *struck, "--"] if struck else ["tollgate"]
        return self.processes.start(*launch, *command, environment=self.environment)

    def set_simulator(self, **settings: Any) -> None:
        answer = httpx2.put(f"{self.simulator_url}/simulator/settings", content=json.dumps(settings))
        assert answer.status_code == 200, answer.text

    def simulator_stats(self) -> Any:
        return httpx2.get(f"{self.simulator_url}/simulator/stats").json()

    def broker_client(self) -> redis.Redis:
        """Straight to the server, past the proxy."""
        return redis.Redis.from_url(self.redis.url)

    def client(self, *, timeout_s: float = 30) -> httpx2.Client:
        headers = {"Authorization": f"Bearer {next(self._keys)}"}
        return httpx2.Client(base_url=f"http://127.0.0.1:{self.port}", headers=headers, timeout=timeout_s)

    def submit(self, *prompts: str, model: str = MODELS[0], **fields: Any) -> list[str]:
        """A list of tasks, all accepted; their ids. Told to come again, it does, as any client."""
        body = [{"model": model, "prompt": prompt, **fields} for prompt in prompts]
        deadline = time.monotonic() + ACCEPTED_WITHIN_S
        with self.client() as client:
            while (answer := client.post("/tasks", json=body)).status_code == 503 and time.monotonic() < deadline:
                time.sleep(LOOK_EVERY_S)
        assert answer.status_code == 202, answer.text
        ids = [task["id"] for task in answer.json()["data"]]
        self.accepted |= {books.hex_of(i) for i in ids}
        return ids

    def show(self, task_id: str, *, wait_s: float = 0) -> Any:
        with self.client(timeout_s=wait_s + 30) as client:
            answer = client.get(f"/tasks/{task_id}", params={"wait": wait_s})
        assert answer.status_code == 200, answer.text
        return answer.json()

    def books(self) -> Books:
        bills = [httpx2.get(f"{url}/simulator/bill.csv").text for url in (self.simulator_url, *self.further_bills)]
        return books.read(self.postgres.url(self._database), *bills)

    def save_bill(self) -> str:
        """The path of the simulator's bill."""
        bill = self.processes.folder / "bill.csv"
        bill.write_text(httpx2.get(f"{self.simulator_url}/simulator/bill.csv").text)
        return str(bill)

    def reconcile(self, *options: str) -> subprocess.CompletedProcess[str]:
        """Tollgate's own look at its books."""
        straight = {"TOLLGATE_DATABASE_URL": self.postgres.url(self._database)}
        return self.processes.run("tollgate", "reconcile", *options, environment={**self.environment, **straight})

    def states(self, ids: list[str]) -> set[str]:
        """Those in which these tasks are."""
        tasks = self.books().tasks
        return {tasks[books.hex_of(i)]["state"] for i in ids}

    def until_ended(self, ids: list[str] | None = None, *, limit_s: float = 60) -> float:
        """These, or all there are; and the upstream is done with what nobody waits for. Seconds it took."""

        def ended() -> bool:
            found = self.books()
            asked = [books.hex_of(i) for i in ids] if ids is not None else list(found.tasks)
            open_ones = [i for i in asked if found.tasks[i]["state"] not in books.ENDED]
            return not open_ones and (ids is not None or self.simulator_stats()["in_flight"] == 0)

        return until(ended, "every task has ended", limit_s=limit_s)


def prompts(count: int, *, about: str) -> list[str]:
    """Of different lengths, so of different costs."""
    return [f"{about} {n}: " + "more words. " * (n % 7) for n in range(count)]


def serves(process: Process) -> None:
    """Wait until this gateway, worker or beat is ready."""
    process.wait_for(SERVES.pattern, timeout_s=60)
