"""The servers of one benchmark: on a database and a Redis database of their own, stopped and dropped at its end."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import secrets
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Self

import asyncpg
import httpx2
import redis
import sqlalchemy as sa

BIN = Path(sys.executable).parent
ROOT = Path(__file__).parent.parent
DATABASE_SERVER = os.environ.get("TOLLGATE_TEST_DATABASE_URL", "postgresql://postgres@127.0.0.1:5432/postgres")
REDIS = os.environ.get("TOLLGATE_TEST_REDIS_URL", "redis://127.0.0.1:6379/15")
START_S = 60.0
LOOK_EVERY_S = 0.02
SETTLED = "SELECT coalesce(sum(tasks_succeeded), 0) FROM usage_hourly"
MODELS = """
[[upstream]]
name = "zhipu"
kind = "zhipu"
base_url_env = "TOLLGATE_ZHIPU_BASE_URL"
keys = ["ZHIPUAI_API_KEY"]
max_in_flight = {max_in_flight}

[[model]]
name = "glm-4-air"
routes = [{{ upstream = "zhipu", model = "glm-4-air", mode = "{mode}" }}]
"""


class Process:
    """A server, with its output in a file."""

    def __init__(self, name: str, command: list[str], *, folder: Path, environment: Mapping[str, str]) -> None:
        self.log = folder / f"{name}.log"
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(command, env=environment, cwd=folder, stdout=log, stderr=log)

    def said(self, word: str) -> str:
        """The first word in its output that begins with `word`."""
        until = time.monotonic() + START_S
        while time.monotonic() < until and self._process.poll() is None:
            if found := [part.rstrip("(),;") for part in self.log.read_text().split() if part.startswith(word)]:
                return found[0]
            time.sleep(0.05)
        raise SystemExit(f"{self.log.name}: no {word} in its output:\n{self.log.read_text()[-4000:]}")

    def stop(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self.kill()

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    @property
    def pids(self) -> list[int]:
        """Its own and its children's: Celery's prefork pool is a family."""
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text().split()
        return [self._process.pid, *(int(child) for child in children)]

    @property
    def cpu_s(self) -> float:
        """User and system seconds so far."""
        ticks = 0
        for pid in self.pids:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            ticks += int(fields[11]) + int(fields[12])
        return ticks / os.sysconf("SC_CLK_TCK")

    @property
    def memory_mb(self) -> float:
        """Proportional set size: pages that processes share are counted once."""
        return sum(_pss_kb(pid) for pid in self.pids) / 1024


def _pss_kb(pid: int) -> int:
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1])
    return 0


class Installation:
    """A Tollgate in parts. What is started here ends with the `with` block, in reverse order."""

    def __init__(self, *, max_in_flight: int = 64, mode: str = "direct") -> None:
        self._stack = contextlib.ExitStack()
        self._models = MODELS.format(max_in_flight=max_in_flight, mode=mode)
        self._clients: dict[str, httpx2.Client] = {}
        self.environment = clean_environment()
        self.gateway_url = self.simulator_url = self.key = ""

    def __enter__(self) -> Self:
        self.folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="tollgate-bench-")))
        self.database_url = self._stack.enter_context(_database())
        self._stack.enter_context(_clean_redis())
        models = self.folder / "models.toml"
        models.write_text(self._models)
        self.environment |= {
            "TOLLGATE_DATABASE_URL": self.database_url,
            "TOLLGATE_REDIS_URL": REDIS,
            "TOLLGATE_MASTER_KEY": secrets.token_hex(32),
            "TOLLGATE_MODELS_FILE": str(models),
            "ZHIPUAI_API_KEY": "bench.key",
        }
        self.tollgate("migrate")
        self.key = self.new_key("bench")
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def spawn(self, name: str, *command: str, **environment: str) -> Process:
        """A program of this virtual environment."""
        line = [str(BIN / command[0]), *command[1:]]
        process = Process(name, line, folder=self.folder, environment={**self.environment, **environment})
        self._stack.callback(process.stop)
        return process

    def simulator(self, *options: str) -> Process:
        started = self.spawn("simulator", "tollgate", "simulator", "--port", "0", *options)
        self.simulator_url = started.said("http://").partition("/api")[0]
        self.environment["TOLLGATE_ZHIPU_BASE_URL"] = f"{self.simulator_url}/api/paas/v4"
        return started

    def instant_upstream(self) -> Process:
        started = self.spawn("upstream", sys.executable, "-m", "benchmarks.upstream", PYTHONPATH=str(ROOT))
        self.environment["TOLLGATE_ZHIPU_BASE_URL"] = f"{started.said('http://')}/api/paas/v4"
        return started

    def gateway(self) -> Process:
        started = self.spawn("gateway", "tollgate", "gateway", "--port", "0")
        self.gateway_url = started.said("http://")
        return started

    def worker(self, *options: str) -> Process:
        started = self.spawn("worker", "tollgate", "worker", *options)
        until = time.monotonic() + START_S
        while not self.scalar("SELECT count(*) FROM workers WHERE NOT dead"):
            if time.monotonic() > until:
                raise SystemExit(f"no worker registered:\n{started.log.read_text()[-4000:]}")
            time.sleep(0.05)
        return started

    def beat(self) -> Process:
        return self.spawn("beat", "tollgate", "beat")

    def tollgate(self, *arguments: str) -> str:
        """Run a command to its end; what it printed."""
        command = [str(BIN / "tollgate"), *arguments]
        done = subprocess.run(
            command, env=self.environment, cwd=self.folder, capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise SystemExit(f"tollgate {' '.join(arguments)}: exit code {done.returncode}\n{done.stderr}")
        return done.stdout

    def new_key(self, project: str) -> str:
        made = json.loads(self.tollgate("keys", "create", "--project", project, "--role", "admin", "--json"))
        return str(made["key"])

    def submit(self, count: int, *, at_once: int = 10_000) -> None:
        """`count` small prompts in lists."""
        for start in range(0, count, at_once):
            tasks = [{"model": "glm-4-air", "prompt": f"text {i}"} for i in range(start, min(count, start + at_once))]
            headers = {"Authorization": f"Bearer {self.key}"}
            httpx2.post(f"{self.gateway_url}/tasks", json=tasks, headers=headers, timeout=120).raise_for_status()

    def settled(self) -> int:
        """Tasks in the accounts: result, usage and roll-up are committed."""
        return int(self.scalar(SETTLED))

    def wait_settled(self, count: int, *, timeout_s: float = 300.0) -> float:
        """When the accounts count so many, on the monotonic clock."""
        found, at_s = asyncio.run(_wait(self.database_url, SETTLED, count, timeout_s=timeout_s))
        if found < count:
            raise SystemExit(f"only {found} of {count} tasks were settled in {timeout_s:.0f} s")
        return at_s

    def simulator_stats(self) -> Any:
        return httpx2.get(f"{self.simulator_url}/simulator/stats").json()

    def scalar(self, statement: str) -> Any:
        return asyncio.run(_scalar(self.database_url, statement))

    def execute(self, *statements: str) -> None:
        asyncio.run(_execute(self.database_url, *statements))


def clean_environment() -> dict[str, str]:
    """This machine's, less every setting of Tollgate's."""
    return {k: v for k, v in os.environ.items() if not k.startswith(("TOLLGATE_", "ZHIPU"))}


async def _scalar(url: str, statement: str) -> Any:
    connection = await asyncpg.connect(url)
    try:
        return await connection.fetchval(statement)
    finally:
        await connection.close()


async def _wait(url: str, counting: str, count: int, *, timeout_s: float) -> tuple[int, float]:
    """What was counted last, and when. Over one connection: to make one costs the server as much as ten tasks."""
    connection = await asyncpg.connect(url)
    try:
        until = time.monotonic() + timeout_s
        while True:
            found = int(await connection.fetchval(counting))
            if found >= count or time.monotonic() > until:
                return found, time.monotonic()
            await asyncio.sleep(LOOK_EVERY_S)
    finally:
        await connection.close()


async def _execute(url: str, *statements: str) -> None:
    connection = await asyncpg.connect(url, timeout=60)
    try:
        for statement in statements:
            await connection.execute(statement)
    finally:
        await connection.close()


@contextlib.contextmanager
def _database() -> Iterator[str]:
    name = f"tollgate_bench_{secrets.token_hex(4)}"
    asyncio.run(_execute(DATABASE_SERVER, f"CREATE DATABASE {name}"))
    try:
        yield sa.make_url(DATABASE_SERVER).set(database=name).render_as_string(hide_password=False)
    finally:
        asyncio.run(_execute(DATABASE_SERVER, f"DROP DATABASE {name} WITH (FORCE)"))


@contextlib.contextmanager
def _clean_redis() -> Iterator[None]:
    """The broker's queues of an earlier run would be this one's work."""
    with redis.Redis.from_url(REDIS) as client:
        if client.dbsize():
            raise SystemExit(f"{REDIS} is not empty: empty it, or name another in TOLLGATE_TEST_REDIS_URL")
        try:
            yield
        finally:
            client.flushdb()
