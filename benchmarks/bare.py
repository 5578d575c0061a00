"""The limit that the gateway is measured against: FastAPI, served as the gateway is, with routes that do nothing.

    python -m benchmarks.bare ANSWER.json        prints its address

`POST /tasks` validates the gateway's own body by the gateway's own schema; `GET /tasks/{id}` answers what the file
holds. Nothing is authenticated, kept or asked.
"""

from __future__ import annotations

import contextlib
import json
import sys
from pathlib import Path
from typing import Any

import fastapi
import uvloop

from gateway.task_body import TaskBody
from tollgate.cli import http_server


def create_app(answer: dict[str, Any]) -> fastapi.FastAPI:
    app = fastapi.FastAPI()

    @app.post("/tasks", status_code=202)
    async def submit(body: TaskBody) -> dict[str, Any]:
        return {"id": answer["id"], "object": "task", "status": "PROCESSING", "custom_id": body.custom_id}

    @app.get("/tasks/{task_id}")
    async def get(task_id: str) -> dict[str, Any]:
        return {**answer, "id": task_id}

    return app


async def _serve(answer: dict[str, Any]) -> None:
    with contextlib.closing(http_server.bind("127.0.0.1", 0)) as listener:
        ready = f"the bare route serves on {http_server.address_of(listener)}"
        await http_server.serve(
            create_app(answer), listener, on_ready=lambda: print(ready, flush=True), on_stop=lambda: None
        )


if __name__ == "__main__":
    uvloop.run(_serve(json.loads(Path(sys.argv[1]).read_text())))
