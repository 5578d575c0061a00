"""What is bought by an upstream's own batches, and how such a batch goes. Pure.

Source: docs.bigmodel.cn, "batch API"; what its answers look like in the wild: `domain.upstream_batch_answers`.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from enum import StrEnum

import orjson

from tollgate.domain.routing import Catalog, Route
from tollgate.domain.tasks import TaskRequest

LINES_MAX = 50_000
"""ZhipuAI's limit of one file."""
BYTES_MAX = 95 * 1024 * 1024
"""A little less than ZhipuAI's 100 MB, however it counts a megabyte."""
ENDPOINT = "/v4/chat/completions"
LONGEST_MARGIN_S = 1_800.0
"""Before the end of our batch its upstream batches are stopped: what they leave may still be run directly."""
MARGIN_SHARE = 0.1
"""The same, as a part of a short window."""


class UpstreamBatchState(StrEnum):
    """`gathering -> grouped -> uploaded -> creating -> running -> harvesting -> ended`, and `creating -> uploaded`."""

    GATHERING = "gathering"
    """Lines are being put into it."""
    GROUPED = "grouped"
    """It has its lines; their file is to be sent."""
    UPLOADED = "uploaded"
    """The upstream has the file; nothing is bought."""
    CREATING = "creating"
    """It was, or may have been, asked for: whether it is there, only the upstream's list says."""
    RUNNING = "running"
    """The upstream has it, under an id that is known."""
    HARVESTING = "harvesting"
    """It has ended there, and its answers are to be fetched."""
    ENDED = "ended"
    """Each of its lines was answered, or runs by itself."""


def can_be_batched(request: TaskRequest, route: Route, *, catalog: Catalog) -> bool:
    """Chat completions of ZhipuAI's own wire. Others of the batch are bought directly."""
    return request.endpoint == "chat" and catalog.upstreams[route.upstream].kind == "zhipu"


def near_end(expires_at: datetime, *, window_s: float, now: datetime) -> bool:
    """Whether our batch ends so soon that no upstream batch may run for it any more."""
    return now >= expires_at - timedelta(seconds=min(LONGEST_MARGIN_S, window_s * MARGIN_SHARE))


def input_line(custom_id: str, body: str, *, model: str) -> bytes:
    """A line of the file: `body` (JSON) under the upstream's name of the model."""
    line = {
        "custom_id": custom_id,
        "method": "POST",
        "url": ENDPOINT,
        "body": {**orjson.loads(body), "model": model},
    }
    return orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE)
