"""S9: the same prompts through Tollgate and through the plain way (`peers/plain_celery`), an upstream of 0.2 s.

The plain way can have as many calls in flight as it has processes: 16 / 0.2 s is 80 tasks/s, whatever the machine.
It is given as many tasks as it can settle in the asked time at most, and Tollgate as many as it has to.
CPU and memory are of the processes of each; PostgreSQL's, Redis's and the simulator's are in neither.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import sqlalchemy as sa

from benchmarks import load
from benchmarks.installation import REDIS, ROOT, Installation, Process
from benchmarks.report import Figure, ratio
from benchmarks.submits import BODY

PACKAGE = "benchmarks.peers.plain_celery"
LATENCY_S = 0.2
PROCESSES = 16
MOST_PER_S = PROCESSES / LATENCY_S
TARGET = 10
WARM_UP_TASKS = 64
SAMPLE_S = 1.0
POLL_S = 0.1
TIMEOUT_S = 300.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """One of the two, started. Tasks `accepted`, and `settled` with their result committed, so far."""

    at: Installation
    url: str
    processes: Sequence[Process]
    accepted: Callable[[], int]
    settled: Callable[[], int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """`per_s` from the first submit to the last settled, `cpu_ms` a task, `memory_mb` the most of all processes."""

    per_s: float
    cpu_ms: float
    memory_mb: float


def end_to_end(*, runs: int, seconds: float) -> list[Figure]:
    """S9: single submits to settled, calls of 0.2 s, against FastAPI, Celery prefork 16 and ZhipuAI's SDK."""
    ours, theirs = [], []
    for _ in range(runs):
        with _plain() as subject:
            theirs.append(_run(subject, tasks=round(MOST_PER_S * seconds)))
        with _tollgate() as subject:
            ours.append(_run(subject, tasks=round(TARGET * MOST_PER_S * seconds)))
    return [
        *_figures("the plain way", theirs),
        *_figures("Tollgate", ours),
        ratio(
            "S9",
            "Tollgate's tasks/s against the plain way's",
            [run.per_s for run in ours],
            [run.per_s for run in theirs],
            target=TARGET,
        ),
    ]


def _figures(who: str, runs: Sequence[Run]) -> list[Figure]:
    return [
        Figure(name="S9", what=f"{who}, tasks/s", values=[run.per_s for run in runs]),
        Figure(name="S9", what=f"{who}, CPU a task", values=[run.cpu_ms for run in runs], unit="ms"),
        Figure(name="S9", what=f"{who}, peak memory", values=[run.memory_mb for run in runs], unit="MB"),
    ]


@contextlib.contextmanager
def _tollgate() -> Iterator[Subject]:
    with Installation(max_in_flight=1000) as at:
        at.simulator("--latency", str(LATENCY_S))
        processes = [at.gateway(), at.worker(), at.beat()]
        yield Subject(
            at=at,
            url=at.gateway_url,
            processes=processes,
            accepted=lambda: int(at.scalar("SELECT count(*) FROM tasks")),
            settled=at.settled,
        )


@contextlib.contextmanager
def _plain() -> Iterator[Subject]:
    """In a schema of its own: its table has the name that Tollgate's has."""
    with Installation() as at:
        at.simulator("--latency", str(LATENCY_S))
        at.execute("CREATE SCHEMA plain")
        environment = {
            "DATABASE_URL": _in_schema(at.database_url, "plain"),
            "REDIS_URL": REDIS,
            "ZHIPUAI_BASE_URL": f"{at.simulator_url}/api/paas/v4",
            "PYTHONPATH": str(ROOT),
        }
        serve = ("uvicorn", f"{PACKAGE}.app:app", "--port", "0", "--no-access-log")
        work = ("celery", "-A", f"{PACKAGE}.tasks", "worker", "-P", "prefork", "-c", str(PROCESSES))
        app = at.spawn("plain-app", *serve, **environment)
        worker = at.spawn("plain-worker", *work, **environment)
        yield Subject(
            at=at,
            url=app.said("http://"),
            processes=[app, worker],
            accepted=lambda: int(at.scalar("SELECT count(*) FROM plain.tasks")),
            settled=lambda: int(at.scalar("SELECT count(*) FROM plain.tasks WHERE status = 'SUCCESS'")),
        )


def _in_schema(url: str, schema: str) -> str:
    """The database for psycopg, which is synchronous as Celery's tasks are."""
    made = sa.make_url(url).set(drivername="postgresql+psycopg")
    return made.update_query_dict({"options": f"-csearch_path={schema}"}).render_as_string(hide_password=False)


def _run(subject: Subject, *, tasks: int) -> Run:
    """Warm up, feed at least so many, wait for the last."""
    _feed(subject, tasks=WARM_UP_TASKS)
    before, cpu_s, started = subject.accepted(), _cpu_s(subject), time.monotonic()
    with _peak_mb(subject.processes) as samples:
        ended = _feed(subject, tasks=tasks)
    fed = subject.accepted() - before
    cpu_ms = 1000 * (_cpu_s(subject) - cpu_s) / fed
    return Run(per_s=fed / (ended - started), cpu_ms=cpu_ms, memory_mb=max(samples))


def _feed(subject: Subject, *, tasks: int) -> float:
    """Single submits by 64 clients, a second's worth at a time; when all of them are settled, on the monotonic clock.

    Asked more rarely than the other benchmarks do: a question costs a connection, and there is time.
    """
    enough = subject.accepted() + tasks
    while subject.accepted() < enough:
        load.post(f"{subject.url}/tasks", BODY, key=subject.at.key, seconds=1)
    until = time.monotonic() + TIMEOUT_S
    while (settled := subject.settled()) < (accepted := subject.accepted()):
        if time.monotonic() > until:
            raise SystemExit(f"only {settled} of {accepted} tasks were settled in {TIMEOUT_S:.0f} s")
        time.sleep(POLL_S)
    return time.monotonic()


def _cpu_s(subject: Subject) -> float:
    return sum(process.cpu_s for process in subject.processes)


@contextlib.contextmanager
def _peak_mb(processes: Sequence[Process]) -> Iterator[list[float]]:
    """Samples of the memory of all, taken meanwhile."""
    samples = [sum(process.memory_mb for process in processes)]
    over = threading.Event()

    def sample() -> None:
        while not over.wait(SAMPLE_S):
            samples.append(sum(process.memory_mb for process in processes))

    thread = threading.Thread(target=sample)
    thread.start()
    try:
        yield samples
    finally:
        over.set()
        thread.join()
