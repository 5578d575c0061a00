"""Clients of a gateway that dies: they submit, and ask again with the same request_id until they are answered."""

from __future__ import annotations

import random
import threading
from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx2

from tests.chaos.books import hex_of
from tests.chaos.deployment import MODELS, Deployment

V4 = "/api/paas/v4"
PAUSE_S = 0.5
"""After no answer, or a 503."""
TIMEOUT_S = 8.0
HOOKS = (
    "",
    "",
    "",
    "",
    "[[tokens:300]]",
    "[[latency:2.5]]",
    "[[fault:once:500]]",
    "[[fault:once:cut]]",
    "[[fault:3x:429]]",
)


class Client:
    """One thread, one connection at a time. What it does is decided by the seed, when it does it is not."""

    def __init__(self, town: Deployment, *, seed: str, over: threading.Event) -> None:
        self._town = town
        self._random = random.Random(seed)
        self._over = over
        self._number = 0
        self._seed = seed
        self.answered: list[str] = []
        self.counts: Counter[str] = Counter()

    def run(self) -> None:
        """Until it is over; what then has no answer with a request_id is asked for to the end."""
        acts = (self._submit_one, self._submit_list, self._call, self._submit_v4, self._cancel, self._read)
        with self._town.client(timeout_s=TIMEOUT_S) as client:
            while not self._over.wait(self._random.uniform(0.02, 0.3)):
                act = self._random.choices(acts, weights=(6, 3, 3, 3, 2, 2))[0]
                act(client)

    def _body(self) -> dict[str, Any]:
        chance = self._random
        self._number += 1
        text = f"{chance.choice(HOOKS)}{self._seed} {self._number} " + "words " * chance.randrange(30)
        body: dict[str, Any] = {"model": chance.choice(MODELS), "messages": [{"role": "user", "content": text}]}
        if chance.random() < 0.6:
            body["request_id"] = f"chaos-{self._seed}-{self._number}"
        return body

    def _task(self) -> dict[str, Any]:
        """A body of the native API, with what only that has."""
        chance, body = self._random, self._body()
        if chance.random() < 0.2:
            body["label"] = f"label-{chance.randrange(5)}"
        if chance.random() < 0.1:
            body["on_uncertain"] = "fail"
        if chance.random() < 0.1:
            body["priority"] = "bulk"
        if chance.random() < 0.05:
            body["expires_at"] = (datetime.now(UTC) + timedelta(seconds=chance.uniform(1, 10))).isoformat()
        if chance.random() < 0.1:
            body["mode"] = "async"
        return body

    def _submit_one(self, client: httpx2.Client) -> None:
        self._post(client, "/tasks", self._task(), name="single")

    def _submit_list(self, client: httpx2.Client) -> None:
        count = self._random.choice((2, 5, 20, 150))
        self._post(client, "/tasks", [self._task() for _ in range(count)], name="list")

    def _submit_v4(self, client: httpx2.Client) -> None:
        self._post(client, f"{V4}/async/chat/completions", self._body(), name="v4 async")

    def _call(self, client: httpx2.Client) -> None:
        """Waits for its answer, or leaves when its time is over; the task is there all the same."""
        self._post(client, f"{V4}/chat/completions", self._body(), name="v4 sync")

    def _cancel(self, client: httpx2.Client) -> None:
        if self.answered:
            task_id = self._random.choice(self.answered[-20:])
            self._post(client, f"/tasks/{task_id}/cancel", None, name="cancel")

    def _read(self, client: httpx2.Client) -> None:
        """An id that was answered is always there."""
        if not self.answered:
            return
        try:
            answer = client.get(f"/tasks/{self._random.choice(self.answered)}", params={"wait": 2})
        except httpx2.TransportError:
            return
        assert answer.status_code in (200, 503), answer.text

    def _post(self, client: httpx2.Client, path: str, body: Any, *, name: str) -> None:
        """Ask until there is an answer, where asking again is safe; else once."""
        self.counts[name] += 1
        asked = body if isinstance(body, list) else [body]
        again = bool(body) and all(one.get("request_id") for one in asked)
        while True:
            answer = self._send(client, path, body)
            if answer is not None:
                self._note(answer, name=name)
            if answer is not None and answer.status_code != 503:
                return
            self.counts["no answer" if answer is None else "answered 503"] += 1
            if not again or self._over.is_set():
                return
            self._over.wait(PAUSE_S)

    def _send(self, client: httpx2.Client, path: str, body: Any) -> httpx2.Response | None:
        try:
            return client.post(path, json=body) if body is not None else client.post(path)
        except httpx2.TransportError:
            return None

    def _note(self, answer: httpx2.Response, *, name: str) -> None:
        """Any other status is a fault of Tollgate's: nothing that is sent here is wrong."""
        task_id = answer.headers.get("x-task-id")
        if task_id:  # a call's, also of one that failed, or was not waited for
            self._keep(task_id)
        elif answer.status_code != 503:
            assert answer.status_code in (200, 202), (name, answer.status_code, answer.text)
            parsed = answer.json()
            for task in parsed["data"] if parsed.get("object") == "list" else [parsed]:
                self._keep(task["id"])

    def _keep(self, task_id: str) -> None:
        self.answered.append(task_id)
        self._town.accepted.add(hex_of(task_id))
