"""An answer from its chunks is the answer in one piece; what breaks it off says what it was."""

from __future__ import annotations

import asyncio
from typing import Any

import orjson
import pytest

from tollgate.broker.bus import RETELL, MemoryBus
from tollgate.broker.telling import Telling, channel_of
from tollgate.domain.errors import UpstreamError
from tollgate.domain.ids import new_id
from tollgate.domain.record import START, Record
from worker.streams import Streams
from worker.upstreams.streamed import StreamedAnswer

USAGE = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}


def chunk(delta: Any = None, *, finish_reason: str | None = None, **fields: Any) -> str:
    choice = {"index": 0, "delta": delta or {}, "finish_reason": finish_reason}
    return orjson.dumps({"id": "8000", "created": 1, "model": "glm", "choices": [choice], **fields}).decode()


class Kept:
    """A writer that keeps each delta, too."""

    def __init__(self) -> None:
        self.record = Record()
        self.deltas: list[Any] = []

    def add(self, delta: Any) -> None:
        self.record.add(delta)
        self.deltas.append(delta)


def taken(*chunks: str, done: bool = True) -> tuple[StreamedAnswer, list[Any]]:
    kept = Kept()
    streamed = StreamedAnswer(kept)
    for one in chunks:
        streamed.take(one)
    streamed.done = done
    return streamed, kept.deltas


def test_zhipus_chunks_with_the_usage_in_the_last() -> None:
    streamed, told = taken(
        chunk({"role": "assistant", "reasoning_content": "hm"}),
        chunk({"content": "o"}),
        chunk({"content": "k"}),
        chunk({"content": ""}, finish_reason="stop", usage=USAGE, web_search=[{"title": "a"}]),
    )
    answer = streamed.answer()
    body = orjson.loads(answer.body)
    message = {"role": "assistant", "content": "ok", "reasoning_content": "hm"}
    assert body["choices"] == [{"index": 0, "finish_reason": "stop", "message": message}]
    assert (body["usage"], body["web_search"], body["id"]) == (USAGE, [{"title": "a"}], "8000")
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.finish_reason, answer.upstream_id) == (3, "stop", "8000")
    assert [delta.get("content") for delta in told] == [None, "o", "k", ""]


def test_openais_chunks_with_the_usage_in_one_without_choices() -> None:
    last = orjson.dumps({"id": "8000", "choices": [], "usage": USAGE}).decode()
    streamed, _ = taken(chunk({"content": "ok"}, usage=None), chunk(finish_reason="length"), last)
    answer = streamed.answer()
    assert answer.usage is not None
    assert (answer.usage.completion_tokens, answer.finish_reason) == (2, "length")


def test_a_chunks_object_is_not_the_answers() -> None:
    streamed, _ = taken(chunk({"content": "ok"}, finish_reason="stop", object="chat.completion.chunk"))
    assert orjson.loads(streamed.answer().body)["object"] == "chat.completion"


def test_a_whole_answer_where_a_stream_was_asked_for() -> None:
    whole = {
        "id": "8000",
        "choices": [{"index": 0, "finish_reason": "stop", "message": {"content": "ok"}}],
        "usage": USAGE,
    }
    streamed, _ = taken(orjson.dumps(whole).decode(), done=False)
    assert orjson.loads(streamed.answer().body)["choices"][0]["message"]["content"] == "ok"


def test_without_usage_the_texts_are_told_to_be_estimated() -> None:
    streamed, _ = taken(chunk({"content": "ok"}), chunk(finish_reason="stop"))
    answer = streamed.answer()
    assert (answer.usage, answer.texts) == (None, ("ok",))
    assert "usage" not in orjson.loads(answer.body)


def test_an_end_before_the_end_is_a_cut() -> None:
    streamed, _ = taken(chunk({"content": "o"}), done=False)
    with pytest.raises(UpstreamError) as raised:
        streamed.answer()
    assert raised.value.kind == "cut"


@pytest.mark.parametrize("given", ["[1]", "{", "null", '"text"'])
def test_what_is_no_chunk_is_garbage(given: str) -> None:
    with pytest.raises(UpstreamError) as raised:
        taken(given)
    assert raised.value.kind == "garbage"


def test_an_error_in_mid_stream_has_its_code() -> None:
    with pytest.raises(UpstreamError) as raised:
        taken(chunk({"content": "o"}), '{"error": {"code": "1301", "message": "unsafe"}}')
    assert raised.value.code == "1301"


@pytest.mark.parametrize(
    "choices", [None, [], [None], [{"index": 0}], [{"index": 0, "delta": None}], [{"delta": {"content": 7}}]]
)
def test_chunks_that_say_nothing_are_passed_over(choices: Any) -> None:
    streamed, _ = taken(orjson.dumps({"choices": choices}).decode(), chunk({"content": "ok"}, finish_reason="stop"))
    assert orjson.loads(streamed.answer().body)["choices"][0]["message"]["content"] == "ok"


async def test_what_is_written_while_the_last_telling_is_under_way_goes_together() -> None:
    bus, task_id = MemoryBus(), new_id()
    streams, copy = Streams(bus), Record()
    heard: list[Telling] = []

    def listen(payload: bytes) -> None:
        telling = Telling.parse(payload)
        assert telling is not None
        heard.append(telling)
        assert copy.merge(telling.start, telling.delta)

    await bus.listen(channel_of(task_id), listen)
    with streams.writing(task_id, 2, route="zhipu/glm-4.7") as written:
        for letter in "abc":
            written.add({"content": letter})
        await streams.drain()
        written.add({"content": "d"})
        written.add({"role": "assistant", "content": ""})
        await streams.drain()
        assert copy == written.record
        assert [(telling.attempt, str(telling.start), telling.delta) for telling in heard] == [
            (2, "0.0", {"content": "abc"}),
            (2, "0.3", {"content": "d"}),
        ]
        await bus.publish(RETELL, [task_id, new_id()])
        await settled(streams)
        assert (heard[-1].start, heard[-1].delta) == (START, {"content": "abcd"})
    await bus.publish(RETELL, [task_id])
    await settled(streams)
    assert len(heard) == 3, "an attempt that is closed is told from the store"


async def settled(streams: Streams) -> None:
    """A notice was handled, and what it asked for is told."""
    await asyncio.sleep(0)
    await streams.drain()


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"{}",
        b"[1]",
        b'["1", "0.0", {}]',
        b'[1, "x", {}]',
        b"[1, 2, {}]",
        b'[1, "0.0", 3]',
        b'[1, "0.0", {"content": 1}]',
        b'[1, "0.0", {"tool_calls": [{}]}]',
        b'[1, "0.0", {"tool_calls": 5}]',
    ],
)
def test_noise_on_a_channel_is_no_telling(payload: bytes) -> None:
    assert Telling.parse(payload) is None
