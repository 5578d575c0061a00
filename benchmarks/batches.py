"""Batches: B1 a file is taken in, B2 its results are fetched, B3 a small batch and a single task behind a huge one.

LINES=200000 says how long the file of B1 and B2 is, and the huge batch of B3.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2

from benchmarks.installation import Installation, Process
from benchmarks.report import Figure

LINES = int(os.environ.get("LINES", "200000"))
SMALL = 100
LATENCY_S = 0.2
PIECE = 1024 * 1024
TEXT = "Label the sentiment of this text as positive, neutral or negative: what a fine day it is."
LIMIT_S = 600.0
LOOK_EVERY_S = 0.05
ANSWER = json.dumps(
    {
        "id": "8000", "request_id": "8001", "created": 1700000000, "model": "glm-4-air",
        "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "positive"}}],
        "usage": {"prompt_tokens": 30, "completion_tokens": 2, "total_tokens": 32},
    }
)  # fmt: skip
END_ALL = (
    "UPDATE tasks SET state = 'succeeded', ended_at = now(), started_at = now() WHERE batch_id = '{batch_id}'",
    "INSERT INTO task_results (task_id, attempt, body)"
    " SELECT id, 1, '{answer}' FROM tasks WHERE batch_id = '{batch_id}'",
    "INSERT INTO attempts (task_id, number, fence, worker_id, upstream, upstream_model, request_id, outcome, tries,"
    " prompt_tokens, cached_tokens, completion_tokens, cost_nano, started_at, ended_at)"
    " SELECT id, 1, 1, id, 'zhipu', 'glm-4-air', id::text || '-1', 'succeeded', 1, 30, 0, 2, 16000, now(), now()"
    " FROM tasks WHERE batch_id = '{batch_id}'",
    "INSERT INTO batch_sums (batch_id, shard, tasks_succeeded, attempts)"
    " VALUES ('{batch_id}', 0, {lines}, {lines}) ON CONFLICT DO NOTHING",
    "UPDATE batches SET state = 'completed', ended_at = now() WHERE id = '{batch_id}'",
    "ANALYZE tasks, task_results, attempts",
)
"""As settling leaves a batch: every line has an answer."""


def taken_in(*, runs: int, seconds: float) -> list[Figure]:  # noqa: ARG001 - a file takes as long as it does
    """B1: a file is uploaded, checked and taken in, line by line, into PostgreSQL."""
    uploads, rates, memory = [], [], []
    with _installation() as at:
        gateway = at.gateway()
        path = _file(at.folder / "lines.jsonl", LINES)
        _run(at, _file(at.folder / "few.jsonl", 2_000))
        for _ in range(runs):
            idle_mb = gateway.memory_mb
            with _Peak(gateway) as peak:
                began = time.monotonic()
                file_id = _upload(at, path)
                uploaded = time.monotonic()
                _take_in(at, file_id)
            uploads.append(LINES / (uploaded - began))
            rates.append(LINES / (time.monotonic() - uploaded))
            memory.append(max(0.0, peak.most_mb - idle_mb))
    return [
        Figure(name="B1", what=f"uploaded, lines/s, of {LINES:,}", values=uploads),
        Figure(name="B1", what="checked and taken in, lines/s", values=rates, target=15_000),
        Figure(name="B1", what="memory over the idle gateway", values=memory, unit="MB", target=80, sense="<="),
    ]


def fetched(*, runs: int, seconds: float) -> list[Figure]:  # noqa: ARG001 - as above
    """B2: the results of a batch are fetched, in OpenAI's lines and as CSV."""
    rates: dict[str, list[float]] = {"openai": [], "jsonl": [], "csv": []}
    memory = []
    with _installation() as at:
        gateway = at.gateway()
        batch_id = _run(at, _file(at.folder / "lines.jsonl", LINES))
        filled = {"batch_id": batch_id, "answer": ANSWER, "lines": LINES}
        at.execute(*(_filled(statement, filled) for statement in END_ALL))
        idle_mb = gateway.memory_mb
        for _ in range(runs):
            with _Peak(gateway) as peak:
                for form, found in rates.items():
                    found.append(_download(at, batch_id, form))
            memory.append(max(0.0, peak.most_mb - idle_mb))
    return [
        *(
            Figure(name="B2", what=f"fetched as {form}, lines/s", values=found, target=20_000)
            for form, found in rates.items()
        ),
        Figure(name="B2", what="memory over the idle gateway", values=memory, unit="MB", target=80, sense="<="),
    ]


def behind(*, runs: int, seconds: float) -> list[Figure]:  # noqa: ARG001 - as above
    """B3: while a huge batch of one project runs, another's batch of 100 lines, and a single task."""
    first, last, single = [], [], []
    with _installation() as at:
        at.simulator("--latency", str(LATENCY_S))
        at.gateway()
        at.worker()
        at.beat()
        other = at.new_key("other")
        huge = _run(at, _file(at.folder / "huge.jsonl", LINES))
        small = _file(at.folder / "small.jsonl", SMALL)
        while _batch(at, huge)["counts"]["succeeded"] < 1_000:
            time.sleep(LOOK_EVERY_S)
        for _ in range(runs):
            began = time.monotonic()
            batch_id = _create(at, _upload(at, small, key=other), key=other)
            first.append(_until(at, batch_id, key=other, succeeded=1) - began)
            last.append(_until(at, batch_id, key=other, succeeded=SMALL) - began)
            began = time.monotonic()
            body = {"model": "glm-4-air", "prompt": TEXT}
            task = _post(at, "/tasks", key=other, body=body)
            httpx2.get(f"{at.gateway_url}/tasks/{task['id']}?wait=60", headers=_auth(other), timeout=70)
            single.append(time.monotonic() - began)
        if _batch(at, huge)["state"] != "in_progress":
            raise SystemExit("the huge batch was done too early: LINES=... more")
    return [
        _delay(f"the first line of {SMALL} behind {LINES:,}", first, target=10),
        _delay("the last of them", last, target=12),
        _delay("a single task, submitted to answered", single, target=2),
    ]


def _delay(what: str, values: list[float], *, target: float) -> Figure:
    told = f"{what} (upstream: {LATENCY_S} s)"
    return Figure(name="B3", what=told, values=values, unit="s", target=target, sense="<=")


@contextlib.contextmanager
def _installation() -> Iterator[Installation]:
    with Installation(max_in_flight=200) as at:
        yield at


class _Peak:
    """The most memory a process had while the block ran."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self._over = threading.Event()
        self._watching = threading.Thread(target=self._watch)
        self.most_mb = 0.0

    def __enter__(self) -> _Peak:
        self._watching.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._watching.join()

    def _watch(self) -> None:
        while not self._over.wait(0.1):
            self.most_mb = max(self.most_mb, self._process.memory_mb)


def _file(path: Path, count: int) -> Path:
    with path.open("w") as file:
        for number in range(1, count + 1):
            messages = [{"role": "user", "content": f"{number}. {TEXT}"}]
            body = {"model": "glm-4-air", "messages": messages, "temperature": 0.1, "max_tokens": 64}
            call = {"custom_id": f"request-{number}", "method": "POST", "url": "/v1/chat/completions", "body": body}
            file.write(json.dumps(call) + "\n")
    return path


def _auth(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def _upload(at: Installation, path: Path, *, key: str | None = None) -> str:
    with path.open("rb") as file:
        pieces = iter(lambda: file.read(PIECE), b"")
        answer = httpx2.post(
            f"{at.gateway_url}/files?filename={path.name}",
            content=pieces,
            headers=_auth(key or at.key),
            timeout=LIMIT_S,
        )
    answer.raise_for_status()
    return str(answer.json()["id"])


def _post(at: Installation, path: str, *, key: str, body: Any) -> Any:
    answer = httpx2.post(f"{at.gateway_url}{path}", json=body, headers=_auth(key), timeout=60)
    answer.raise_for_status()
    return answer.json()


def _create(at: Installation, file_id: str, *, key: str | None = None) -> str:
    return str(_post(at, "/batches", key=key or at.key, body={"input_file_id": file_id})["id"])


def _batch(at: Installation, batch_id: str, *, key: str | None = None) -> Any:
    answer = httpx2.get(f"{at.gateway_url}/batches/{batch_id}", headers=_auth(key or at.key), timeout=60)
    answer.raise_for_status()
    return answer.json()


def _take_in(at: Installation, file_id: str) -> str:
    """Until all of its lines are tasks."""
    batch_id = _create(at, file_id)
    until = time.monotonic() + LIMIT_S
    while at.scalar(f"SELECT state FROM batches WHERE id = '{batch_id}'") == "validating":
        if time.monotonic() > until:
            raise SystemExit(f"batch {batch_id} is still validating after {LIMIT_S:.0f} s")
        time.sleep(LOOK_EVERY_S)
    return batch_id


def _run(at: Installation, path: Path) -> str:
    return _take_in(at, _upload(at, path))


def _until(at: Installation, batch_id: str, *, key: str, succeeded: int) -> float:
    """When so many of its lines have succeeded, on the monotonic clock."""
    until = time.monotonic() + LIMIT_S
    while _batch(at, batch_id, key=key)["counts"]["succeeded"] < succeeded:
        if time.monotonic() > until:
            raise SystemExit(f"batch {batch_id} is not done after {LIMIT_S:.0f} s")
        time.sleep(LOOK_EVERY_S)
    return time.monotonic()


def _download(at: Installation, batch_id: str, form: str) -> float:
    """Lines a second. Raises SystemExit where some are missing."""
    began, lines = time.monotonic(), 0
    url = f"{at.gateway_url}/batches/{batch_id}/results?format={form}"
    with httpx2.stream("GET", url, headers=_auth(at.key), timeout=LIMIT_S) as answer:
        answer.raise_for_status()
        for piece in answer.iter_raw():
            lines += piece.count(b"\n")
    lines -= form == "csv"  # its head
    if lines != LINES:
        raise SystemExit(f"{lines} lines as {form} of {LINES}")
    return LINES / (time.monotonic() - began)


def _filled(statement: str, values: dict[str, Any]) -> str:
    """The answer is JSON, whose braces are its own."""
    for name, value in values.items():
        statement = statement.replace(f"{{{name}}}", str(value))
    return statement
