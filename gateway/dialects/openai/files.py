"""/v1/files."""

from __future__ import annotations

from gateway.dialects.openai.errors import RESPONSES, answer
from gateway.dialects.sdk_files import files_router

router = files_router(prefix="/v1", tag="OpenAI", answer=answer, responses=RESPONSES)
