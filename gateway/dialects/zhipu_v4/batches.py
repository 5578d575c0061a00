"""/api/paas/v4/batches."""

from __future__ import annotations

from gateway.dialects.sdk_batches import batches_router
from gateway.dialects.zhipu_v4.errors import RESPONSES, answer

router = batches_router(prefix="/api/paas/v4", tag="ZhipuAI v4", answer=answer, responses=RESPONSES)
