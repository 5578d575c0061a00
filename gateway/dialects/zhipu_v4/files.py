"""/api/paas/v4/files."""

from __future__ import annotations

from gateway.dialects.sdk_files import files_router
from gateway.dialects.zhipu_v4.errors import RESPONSES, answer
from gateway.dialects.zhipu_v4.routes import PREFIX

router = files_router(prefix=PREFIX, tag="ZhipuAI v4", answer=answer, responses=RESPONSES)
