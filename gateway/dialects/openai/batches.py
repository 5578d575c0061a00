"""/v1/batches."""

from __future__ import annotations

from gateway.dialects.openai.errors import RESPONSES, answer
from gateway.dialects.sdk_batches import batches_router

router = batches_router(prefix="/v1", tag="OpenAI", answer=answer, responses=RESPONSES)
