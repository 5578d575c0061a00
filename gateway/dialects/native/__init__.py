"""The native API: tasks, usage, models, prices, keys and projects. Bodies as README and /docs show them."""

from __future__ import annotations

import fastapi

from gateway.dialects.native import accounts, keys, models, parse, tasks
from gateway.dialects.native.errors import answer

router = fastapi.APIRouter()
for part in (tasks, accounts, models, keys):
    router.include_router(part.router)

BODIES = (parse.TaskBody, keys.KeyBody, keys.ProjectBody)

__all__ = ["BODIES", "answer", "router"]
