"""ZhipuAI's v4 wire, as its SDKs (zhipuai 2.x, zai-sdk) send and parse it. Streaming comes later."""

from gateway.dialects.zhipu_v4.errors import answer
from gateway.dialects.zhipu_v4.routes import PREFIX, router

__all__ = ["PREFIX", "answer", "router"]
