"""The native API: tasks, usage, models, prices, keys and projects. Bodies as README and /docs show them."""

from __future__ import annotations

import fastapi

from gateway.dialects.native import accounts, keys, models, tasks
from gateway.dialects.native.errors import answer

router = fastapi.APIRouter()
for part in (tasks, accounts, models, keys):
    router.include_router(part.router)

__all__ = ["answer", "router"]
