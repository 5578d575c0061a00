"""A stream on ZhipuAI's v4 wire: chunks, the last one with finish_reason and usage, then `[DONE]`.

No chunk has empty `choices`: user code reads `chunk.choices[0]`. An error in mid-stream is an `error` event, which the
SDKs raise with its message.
"""

from __future__ import annotations

from typing import Any

import fastapi

from gateway import answers
from gateway.dialects.zhipu_v4.errors import failed_task
from gateway.ends import end_of
from gateway.event_stream import frame
from gateway.following import Wrote
from tollgate.store.tasks import Task

DONE = b"data: [DONE]\n\n"


class ZhipuFrames:
    """Of one task. `created` in Unix seconds."""

    def __init__(self, *, task_id: str, model: str, created: int) -> None:
        self._head = {"id": task_id, "created": created, "model": model}

    def wrote(self, event: Wrote) -> bytes:
        return frame(self._chunk(event.delta))

    def succeeded(self, task: Task) -> bytes:
        whole = answers.completion(task)
        chunk = self._chunk({"content": ""}, finish_reason=whole["choices"][0]["finish_reason"])
        return frame({**chunk, "usage": whole["usage"]}) + DONE

    def failed(self, code: str | None, message: str) -> bytes:
        return frame({"error": {"code": end_of(code)[1], "message": message}}, event="error")

    def refused(self, task: Task) -> fastapi.Response:
        return failed_task(task.error_code, task.error_message, task_id=str(task.id))

    def _chunk(self, delta: dict[str, Any], *, finish_reason: str | None = None) -> dict[str, Any]:
        choice = {"index": 0, "delta": {"role": "assistant", **delta}, "finish_reason": finish_reason}
        return {**self._head, "choices": [choice]}
