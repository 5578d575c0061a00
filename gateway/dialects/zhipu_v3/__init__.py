"""ZhipuAI's v3 wire, as zhipuai 1.x (`zhipuai.model_api`) sends and parses it."""

from __future__ import annotations

from gateway.dialects.zhipu_v3.errors import answer
from gateway.dialects.zhipu_v3.prompt_body import PromptBody
from gateway.dialects.zhipu_v3.routes import PREFIX, ROUTERS

BODIES = (PromptBody,)

__all__ = ["BODIES", "PREFIX", "ROUTERS", "answer"]
