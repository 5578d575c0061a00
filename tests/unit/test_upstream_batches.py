"""When an upstream batch may run, and what its file holds."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import orjson
import pytest

from tollgate.domain.routing import Catalog, Route, UpstreamSpec
from tollgate.domain.tasks import TaskRequest
from tollgate.domain.upstream_batches import can_be_batched, input_line, near_end

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
CATALOG = Catalog(
    upstreams={kind: UpstreamSpec(name=kind, kind=kind) for kind in ("zhipu", "openai", "local")},
    models={},
)
CHAT = TaskRequest(model="m", body={"model": "m"})


@pytest.mark.parametrize(("upstream", "may"), [("zhipu", True), ("openai", False), ("local", False)])
def test_only_zhipus_chats_can_be_batched(upstream: str, may: bool) -> None:
    route = Route(upstream=upstream, model="m")
    assert can_be_batched(CHAT, route, catalog=CATALOG) is may
    assert can_be_batched(replace(CHAT, endpoint="embeddings"), route, catalog=CATALOG) is False


@pytest.mark.parametrize(
    ("left_s", "window_s", "near"),
    [
        (86_400, 86_400, False),
        (1_801, 86_400, False),
        (1_800, 86_400, True),
        (-5, 86_400, True),
        (61, 600, False),
        (60, 600, True),
    ],
)
def test_the_last_half_hour_or_tenth_of_a_window_is_its_end(left_s: float, window_s: float, near: bool) -> None:
    assert near_end(NOW + timedelta(seconds=left_s), window_s=window_s, now=NOW) is near


def test_a_line_has_our_name_and_the_upstreams_model() -> None:
    line = input_line("task-1", '{"model":"mine","messages":[{"content":"\\u2028"}]}', model="theirs")
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    assert orjson.loads(line) == {
        "custom_id": "task-1",
        "method": "POST",
        "url": "/v4/chat/completions",
        "body": {"model": "theirs", "messages": [{"content": "\u2028"}]},
    }
