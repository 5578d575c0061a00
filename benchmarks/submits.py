"""What the gateway takes in and tells: S1 single submits, S6 status queries, S7 lists."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterator

import httpx2

from benchmarks import load
from benchmarks.installation import ROOT, Installation
from benchmarks.report import Figure, ratio

PROMPT = "Label the sentiment of this text as positive, neutral or negative: what a fine day it is."
BODY = {"model": "glm-4-air", "messages": [{"role": "user", "content": PROMPT}], "temperature": 0.1, "max_tokens": 64}
LISTED = 10_000
ASKED = 1_000
"""Different tasks that are asked for in turn."""


def singles(*, runs: int, seconds: float) -> list[Figure]:
    """S1: `POST /tasks`, one task each, committed before the answer."""
    with _gateway() as at, _bare(at) as bare:
        without, within, plain = [], [], []
        budgeted = at.new_key("budgeted")
        at.tollgate("budgets", "set", "--project", "budgeted", "--period", "day", "--cost", "1000000")
        for key in (at.key, budgeted):
            load.post(f"{at.gateway_url}/tasks", BODY, key=key, seconds=1)
        load.post(f"{bare}/tasks", BODY, key=at.key, seconds=1)
        for _ in range(runs):
            plain.append(load.post(f"{bare}/tasks", BODY, key=at.key, seconds=seconds).per_s)
            without.append(load.post(f"{at.gateway_url}/tasks", BODY, key=at.key, seconds=seconds).per_s)
            within.append(load.post(f"{at.gateway_url}/tasks", BODY, key=budgeted, seconds=seconds).per_s)
    return [
        Figure(name="S1", what="a bare FastAPI route, requests/s", values=plain),
        Figure(name="S1", what="single submits/s, durable", values=without),
        Figure(name="S1", what="single submits/s, durable, with a budget", values=within),
        ratio("S1", "single submits against the bare route", without, plain, target=0.55),
        ratio("S1", "the same with a budget on the project", within, plain, target=0.45),
    ]


def queries(*, runs: int, seconds: float) -> list[Figure]:
    """S6: `GET /tasks/{id}` of finished tasks."""
    with _gateway() as at, contextlib.ExitStack() as stack:
        at.simulator()
        worker = at.worker()
        at.submit(ASKED)
        at.wait_settled(ASKED)
        worker.stop()
        headers = {"Authorization": f"Bearer {at.key}"}
        listed = httpx2.get(f"{at.gateway_url}/tasks?limit=1000", headers=headers).json()["data"]
        paths = [f"/tasks/{task['id']}" for task in listed]
        answer = httpx2.get(at.gateway_url + paths[0], headers=headers).json()
        bare = stack.enter_context(_bare(at, answer=answer))
        for url in (bare, at.gateway_url):
            load.get(url, paths, key=at.key, seconds=1)
        ours, plain = [], []
        for _ in range(runs):
            plain.append(load.get(bare, paths, key=at.key, seconds=seconds).per_s)
            ours.append(load.get(at.gateway_url, paths, key=at.key, seconds=seconds).per_s)
    return [
        Figure(name="S6", what="a bare FastAPI route, requests/s", values=plain),
        Figure(name="S6", what="status queries/s by id", values=ours),
        ratio("S6", "status queries against the bare route", ours, plain, target=0.5),
    ]


def lists(*, runs: int, seconds: float) -> list[Figure]:
    """S7: `POST /tasks` with 10,000 prompts, two clients."""
    with _gateway() as at:
        body = {"tasks": [{**BODY, "custom_id": f"line-{i}"} for i in range(LISTED)]}
        url = f"{at.gateway_url}/tasks"
        load.post(url, body, key=at.key, seconds=1, clients=2)
        # Of five lists in so many seconds, one more or less would be a fifth of the figure.
        loads = [load.post(url, body, key=at.key, seconds=max(seconds, 20), clients=2) for _ in range(runs)]
        rates = [LISTED * one.per_s for one in loads]
    return [Figure(name="S7", what="prompts/s accepted in lists of 10,000", values=rates, target=15_000)]


@contextlib.contextmanager
def _gateway() -> Iterator[Installation]:
    with Installation(max_in_flight=1000) as at:
        at.gateway()
        yield at


@contextlib.contextmanager
def _bare(at: Installation, *, answer: object = None) -> Iterator[str]:
    file = at.folder / "answer.json"
    file.write_text(json.dumps(answer or {"id": "019ad000-0000-7000-8000-000000000000"}))
    command = (str(sys.executable), "-m", "benchmarks.bare", str(file))
    process = at.spawn("bare", *command, PYTHONPATH=str(ROOT))
    yield process.said("http://")
