"""ZhipuAI's v4 wire, as its SDKs (zhipuai 2.x, zai-sdk) send and parse it."""

from gateway.chat_body import ChatBody
from gateway.dialects.zhipu_v4 import batches, files, routes
from gateway.dialects.zhipu_v4.errors import answer
from gateway.dialects.zhipu_v4.routes import PREFIX
from gateway.embeddings_body import EmbeddingsBody

ROUTERS = (routes.router, files.router, batches.router)
BODIES = (ChatBody, EmbeddingsBody)

__all__ = ["BODIES", "PREFIX", "ROUTERS", "answer"]
