"""The events of a v3 stream: `add` with text, then `finish` with the usage, or `interrupted`, or `error`.

What zhipuai 1.0.7's parser needs: a `data` line in every event (one without is dropped, and `meta` with it), a blank
before text that begins with one (one is eaten), and a `data` line for each line of the text.
"""

from __future__ import annotations

import json
from typing import Any

import fastapi

from gateway import answers
from gateway.ends import end_of
from gateway.event_stream import HEADERS
from gateway.following import Wrote
from tollgate.store.tasks import Task

INTERRUPTED = frozenset({"sensitive", "network_error"})
"""Reasons of an end that is not the answer's own."""


def event(name: str, task_id: str, text: str, *, meta: dict[str, Any] | None = None) -> bytes:
    """`text` without carriage returns, which a line cannot hold."""
    lines = [f"event:{name}", f"id:{task_id}"]
    if meta is not None:
        lines.append(f"meta:{json.dumps(meta)}")
    lines += [f"data: {line}" if line.startswith(" ") else f"data:{line}" for line in text.split("\n")]
    return ("\n".join(lines) + "\n\n").encode()


class V3Frames:
    """Of one task. `incremental`: an event carries what is new; else all so far."""

    def __init__(self, *, task_id: str, incremental: bool) -> None:
        self._task_id = task_id
        self._incremental = incremental
        self._text = ""

    def wrote(self, event_: Wrote) -> bytes:
        """Nothing for reasoning and tool calls, which v3 does not know."""
        new = event_.delta.get("content", "")
        if not new:
            return b""
        before = _plain(self._text)
        self._text += new
        text = _plain(self._text)
        return event("add", self._task_id, text[len(before) :] if self._incremental else text)

    def succeeded(self, task: Task) -> bytes:
        whole = answers.completion(task)
        reason = whole["choices"][0]["finish_reason"]
        if reason in INTERRUPTED:
            return event("interrupted", self._task_id, reason)
        meta = {
            "request_id": whole["request_id"],
            "task_id": self._task_id,
            "task_status": "SUCCESS",
            "usage": whole["usage"],
        }
        waited = event("add", self._task_id, "\n") if self._incremental and self._text.endswith("\r") else b""
        return waited + event("finish", self._task_id, "", meta=meta)

    def failed(self, code: str | None, message: str) -> bytes:
        return event("error", self._task_id, f"[{end_of(code)[1]}][{message}]")

    def refused(self, task: Task) -> fastapi.Response:
        last = self.failed(task.error_code, f"{task.error_message or 'the task failed'} (task {task.id})")
        return fastapi.Response(last, headers=HEADERS)


def _plain(text: str) -> str:
    """With line feeds only. The last carriage return waits: a line feed may follow."""
    return text.removesuffix("\r").replace("\r\n", "\n").replace("\r", "\n")
