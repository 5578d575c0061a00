"""The batches of the SDKs, unmodified, against a served gateway with a worker."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import zhipuai.types.batch

from tests import sdks
from tests.gateway.conftest import OpenGate
from tests.gateway.gate import LIMIT_S, V4
from tests.gateway.test_batches import beating, line
from tests.gateway.test_files_sdks import openai_of
from tests.gateway.test_sdk import Served, serve
from tollgate.simulator import SimulatorSettings

GOOD = 4
OPEN = ("validating", "in_progress", "finalizing", "cancelling")


def content(url: str) -> bytes:
    """Four good lines and two bad ones, as files come: a byte order mark, CRLF, a blank line, no last line feed."""
    good = [line(number, url=url, max_tokens=5) for number in range(1, GOOD + 1)]
    bad = [b'{"custom_id": "broken', line(9, url=url, custom_id="line-1")]
    return b"\xef\xbb\xbf" + b"\r\n".join([*good[:2], b"", *good[2:], *bad])


@pytest.fixture
async def served(gate_with: OpenGate) -> AsyncIterator[Served]:
    """With a worker, and a beat."""
    async with gate_with(simulator=SimulatorSettings()) as gate, serve(gate) as running, beating(gate):
        yield running


def until_ended(read: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + LIMIT_S
    while (found := read()).status in OPEN:
        assert time.monotonic() < deadline, found
        time.sleep(0.05)
    return found


def require_output(text: str) -> None:
    """One line an answer, in the order of the input."""
    told = [json.loads(one) for one in text.splitlines()]
    assert [one["custom_id"] for one in told] == [f"line-{number}" for number in range(1, GOOD + 1)]
    for one in told:
        assert (one["response"]["status_code"], one["error"]) == (200, None)
        body = one["response"]["body"]
        assert body["choices"][0]["message"]["content"]
        assert body["usage"]["completion_tokens"] == 5


def require_errors(text: str) -> None:
    told = [json.loads(one) for one in text.splitlines()]
    codes = [(one["custom_id"], one["error"]["code"]) for one in told]
    assert codes == [(None, "invalid_json_line"), ("line-1", "duplicate_custom_id")]


async def test_openai(served: Served) -> None:
    def drive() -> None:
        client = openai_of(served)
        file = client.files.create(file=("night.jsonl", content("/v1/chat/completions")), purpose="batch")
        made = client.batches.create(
            input_file_id=file.id,
            endpoint="/v1/chat/completions",
            completion_window="24h",
            metadata={"run": "nightly"},
        )
        assert (made.object, made.metadata, made.completion_window) == ("batch", {"run": "nightly"}, "24h")
        ended = until_ended(lambda: client.batches.retrieve(made.id))
        assert ended.status == "completed"
        assert ended.completed_at is not None
        assert ended.request_counts is not None
        counts = ended.request_counts
        assert (counts.total, counts.completed, counts.failed) == (6, 4, 2)
        assert ended.output_file_id is not None
        assert ended.error_file_id is not None
        require_output(client.files.content(ended.output_file_id).text)
        require_errors(client.files.content(ended.error_file_id).text)
        assert [one.id for one in client.batches.list(limit=1)] == [made.id]
        again = client.batches.cancel(made.id)
        assert again.status == "completed", "a cancel after the end changes nothing"

    await asyncio.to_thread(drive)


async def test_zhipuai(served: Served, tmp_path: Path) -> None:
    """It deletes the input file unless told otherwise."""
    path = tmp_path / "夜.jsonl"
    path.write_bytes(content("/v4/chat/completions"))

    def drive() -> None:
        client = served.sdk()
        with path.open("rb") as given:
            file: Any = client.files.create(file=given, purpose="batch")
        made: Any = client.batches.create(
            input_file_id=file.id, endpoint="/v4/chat/completions", completion_window="24h"
        )
        assert isinstance(made, zhipuai.types.batch.Batch)
        ended = until_ended(lambda: client.batches.retrieve(made.id))
        assert ended.status == "completed"
        counts = ended.request_counts
        assert (counts.total, counts.completed, counts.failed) == (6, 4, 2)
        require_output(client.files.content(ended.output_file_id).content.decode())
        require_errors(client.files.content(ended.error_file_id).content.decode())
        assert [one.id for one in client.batches.list(limit=5).data] == [made.id]
        assert client.batches.cancel(made.id).status == "completed"
        deadline = time.monotonic() + LIMIT_S
        while any(one.id == file.id for one in client.files.list(purpose="batch").data):
            assert time.monotonic() < deadline
            time.sleep(0.05)

    await asyncio.to_thread(drive)


async def test_zai(served: Served, tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    path.write_bytes(content("/v4/chat/completions"))
    asked = {"call": "batches", "arguments": {"path": str(path), "endpoint": "/v4/chat/completions"}}
    told = await asyncio.to_thread(sdks.drive, "zai", key=served.key, url=served.url + V4, by_key=False, **asked)
    assert told["ended"]["status"] == "completed"
    assert told["ended"]["request_counts"] == {"total": 6, "completed": 4, "failed": 2}
    assert told["listed"] == [told["ended"]["id"]]
    require_output(told["output"])
    require_errors(told["errors"])


async def test_a_cancelled_batch_keeps_what_is_done(served: Served) -> None:
    def drive() -> None:
        client = openai_of(served)
        lines = b"\n".join(line(number, url="/v1/chat/completions", max_tokens=5) for number in range(1, 2_001))
        file = client.files.create(file=("long.jsonl", lines), purpose="batch")
        made = client.batches.create(input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h")
        deadline = time.monotonic() + LIMIT_S
        while not (counts := client.batches.retrieve(made.id).request_counts) or not counts.completed:
            assert time.monotonic() < deadline
        assert client.batches.cancel(made.id).status in ("cancelling", "cancelled", "completed")
        ended = until_ended(lambda: client.batches.retrieve(made.id))
        assert ended.request_counts is not None
        assert ended.request_counts.completed + ended.request_counts.failed == 2_000
        assert ended.output_file_id is not None
        kept = client.files.content(ended.output_file_id).text.splitlines()
        assert len(kept) == ended.request_counts.completed

    await asyncio.to_thread(drive)
