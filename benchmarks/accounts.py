"""S8: `GET /usage` over a year of a project with many settled tasks, and of one with few.

The tasks are made in the database, without bodies, spread evenly over the days and over 5 keys, 5 models and 10 labels:
with their attempts, and the roll-ups as settling and beat's merging leave them. SCALE=10m makes 10,000,000 of them
(1m, the default, 1,000,000).
"""

from __future__ import annotations

import os
import statistics
import time

import httpx2

from benchmarks.installation import Installation
from benchmarks.report import Figure

FEW = 100_000
MANY = {"1m": 1_000_000, "10m": 10_000_000}
DAYS, KEYS, MODELS, LABELS = 365, 5, 5, 10
YEAR = f"from=2025-01-01&to={2025 + DAYS // 365}-01-01"
BY_MODEL, BY_LABEL = f"/usage?by=day,model&{YEAR}", f"/usage?by=day,label&{YEAR}"
WARM_UP = 20
"""Requests: the driver then has its statements prepared, and PostgreSQL its pages in memory."""
COUNTS = (
    "count(*) AS tasks_succeeded, count(*) AS attempts, sum(prompt_tokens) AS prompt_tokens,"
    " sum(completion_tokens) AS completion_tokens, sum(cost_nano) AS cost_nano"
)
NAMES = "tasks_succeeded, attempts, prompt_tokens, completion_tokens, cost_nano"
SUMS = ", ".join(f"sum({name})" for name in NAMES.split(", "))
SUMMED_UP = (
    f"INSERT INTO usage_hourly (hour, project_id, key_id, model, upstream, label, shard, {NAMES})"
    f" SELECT date_trunc('hour', a.started_at, 'UTC'), project_id, key_id, model, upstream, label, 0, {COUNTS}"
    " FROM tasks JOIN attempts a ON a.task_id = tasks.id GROUP BY 1, 2, 3, 4, 5, 6",
    f"INSERT INTO usage_daily (day, project_id, key_id, model, upstream, label, shard, {NAMES})"
    f" SELECT (hour AT TIME ZONE 'UTC')::date, project_id, key_id, model, upstream, label, 0, {SUMS}"
    " FROM usage_hourly GROUP BY 1, 2, 3, 4, 5, 6",
    f"INSERT INTO usage_daily_totals (day, project_id, model, upstream, shard, {NAMES})"
    f" SELECT day, project_id, model, upstream, 0, {SUMS} FROM usage_daily GROUP BY 1, 2, 3, 4",
)


def usage(*, runs: int, seconds: float) -> list[Figure]:
    """S8: usage by day and model over a year, of 100,000 tasks and of SCALE, one client."""
    many = _scale()
    small: list[float] = []
    large: list[float] = []
    labels: list[float] = []
    with Installation() as at:
        projects = {"few": at.new_key("few"), "many": at.new_key("many")}
        _fill(at, {"few": FEW, "many": many})
        at.gateway()
        with httpx2.Client(base_url=at.gateway_url, timeout=60) as client:
            for name, count in (("few", FEW), ("many", many)):
                _check(client, projects[name], count)
            for _ in range(runs):
                for key, path, values in (
                    (projects["few"], BY_MODEL, small),
                    (projects["many"], BY_MODEL, large),
                    (projects["many"], BY_LABEL, labels),
                ):
                    values.append(_median_ms(client, path, key=key, seconds=seconds / 3))
    ratios = [one / other for one, other in zip(large, small, strict=True)]
    return [
        Figure(name="S8", what="usage by day and model over a year, of 100,000 tasks", values=small, unit="ms"),
        Figure(name="S8", what=f"the same of {many:,}", values=large, unit="ms", target=50, sense="<="),
        Figure(name="S8", what=f"{many:,} tasks against 100,000", values=ratios, unit="x", target=1.5, sense="<="),
        Figure(name="S8", what=f"usage by day and label over a year, of {many:,} tasks", values=labels, unit="ms"),
    ]


def _scale() -> int:
    name = os.environ.get("SCALE", "1m")
    if name not in MANY:
        raise SystemExit(f"SCALE={name}: it is {' or '.join(MANY)}")
    return MANY[name]


def _fill(at: Installation, counts: dict[str, int]) -> None:
    at.execute(
        # No foreign keys are checked here, which would be most of the time.
        "SET session_replication_role = replica",
        "SET work_mem = '256MB'",
        *(_keys(project) for project in counts),
        *(_tasks(project, count, first=sum(counts.values()) * n) for n, (project, count) in enumerate(counts.items())),
        "INSERT INTO attempts (task_id, number, fence, worker_id, upstream, upstream_model, request_id, outcome, tries,"
        " http_status, prompt_tokens, cached_tokens, completion_tokens, cost_nano, started_at, ended_at)"
        " SELECT id, 1, 1, id, 'zhipu', model, id::text, 'succeeded', 1, 200, 100, 0, 50, 600000, created_at, ended_at"
        " FROM tasks",
        *SUMMED_UP,
        "VACUUM ANALYZE",
    )


def _keys(project: str) -> str:
    """Keys of the project beside its first one."""
    return (
        "INSERT INTO api_keys (id, project_id, name, role, master, version, created_at)"
        f" SELECT p.name || n, p.id, n::text, k.role, k.master, k.version, k.created_at"
        f" FROM projects p JOIN api_keys k ON k.project_id = p.id, generate_series(0, {KEYS - 1}) n"
        f" WHERE p.name = '{project}'"
    )


def _tasks(project: str, count: int, *, first: int) -> str:
    """`count` tasks, their ids from the number `first` on, in the order of their time."""
    at = f"timestamptz '2025-01-01 00:00Z' + i / {count}::float8 * interval '{DAYS} days'"
    return (
        "INSERT INTO tasks (id, project_id, key_id, digest, label, model, route, lane, state, fence, not_before,"
        " deadline, retry_until, prompt_tokens_estimate, created_at, started_at, ended_at)"
        f" SELECT lpad(to_hex({first} + i), 32, '0')::uuid, p.id, p.name || i % {KEYS}, '{'0' * 64}',"
        f" 'label-' || i / {KEYS * MODELS} % {LABELS}, 'model-' || i / {KEYS} % {MODELS}, 'zhipu/m', 'cloud.bulk',"
        " 'succeeded', 1, at, at, at, 100, at, at, at"
        f" FROM projects p, generate_series(0, {count - 1}) i, LATERAL (SELECT {at} AS at) times"
        f" WHERE p.name = '{project}'"
    )


def _check(client: httpx2.Client, key: str, count: int) -> None:
    """That what will be measured is the whole answer; and warm up."""
    for path, groups in ((BY_MODEL, DAYS * MODELS), (BY_LABEL, DAYS * LABELS)):
        for _ in range(WARM_UP):
            answer = client.get(path, headers=_headers(key)).raise_for_status().json()
        if (answer["total"]["tasks"], len(answer["data"])) != (count, groups):
            raise SystemExit(f"{path} tells {answer['total']['tasks']} tasks in {len(answer['data'])} groups")


def _median_ms(client: httpx2.Client, path: str, *, key: str, seconds: float) -> float:
    times = []
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        started = time.perf_counter()
        client.get(path, headers=_headers(key)).raise_for_status()
        times.append(1000 * (time.perf_counter() - started))
    return statistics.median(times)


def _headers(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}
