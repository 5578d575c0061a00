"""The local engine behind the worker's face of an upstream."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Mapping
from typing import Any

import orjson
import pytest

from tollgate.domain import verdicts
from tollgate.domain.errors import UpstreamError
from tollgate.domain.record import Record
from tollgate.domain.usage import TokenUsage
from tollgate.domain.verdicts import Action
from worker.upstreams.local.loading import Loaded
from worker.upstreams.local.upstream import LocalUpstream
from worker.upstreams.upstream import Answer, Call

LIMIT_S = 20.0
GREEDY: dict[str, Any] = {"temperature": 0, "max_tokens": 24}


class Reader:
    """A writer that keeps each delta, and tells when the first is there."""

    def __init__(self) -> None:
        self.record = Record()
        self.deltas: list[Mapping[str, Any]] = []
        self.begun = asyncio.Event()

    def add(self, delta: Mapping[str, Any]) -> None:
        self.record.add(delta)
        self.deltas.append(delta)
        self.begun.set()


def call_of(prompt: str = "你好 hello", *, endpoint: str = "chat", **fields: Any) -> Call:
    """`fields` of a Call, the rest of the body."""
    ours: dict[str, Any] = {
        name: fields.pop(name) for name in ("writer", "note_usage", "on_sent", "timeout_s") if name in fields
    }
    body = {"model": "m", "messages": [{"role": "user", "content": prompt}], **fields}
    call: dict[str, Any] = {
        "endpoint": endpoint,
        "model": "tiny-glm",
        "body": orjson.dumps(body).decode(),
        "request_id": "task-1",
        "credential": "",
        "timeout_s": LIMIT_S,
        "on_sent": lambda: None,
    }
    call.update(ours)
    return Call(**call)


def text_of(answer: Answer) -> str:
    content = json.loads(answer.body)["choices"][0]["message"]["content"]
    assert isinstance(content, str)
    return content


async def test_an_answer_is_in_the_wires_form_with_its_exact_usage(upstream: LocalUpstream, loaded: Loaded) -> None:
    sent: list[bool] = []
    answer = await upstream.call(call_of(**GREEDY, on_sent=lambda: sent.append(True)))
    body = json.loads(answer.body)
    assert sent == [True]
    assert (body["id"], body["object"], body["model"]) == ("task-1", "chat.completion", "tiny-glm")
    choice = body["choices"][0]
    assert (choice["finish_reason"], choice["message"]["role"]) == ("length", "assistant")
    text = loaded.tokenizer.render([{"role": "user", "content": "你好 hello"}], {})
    prompt_tokens = len(loaded.tokenizer.encode(text))
    assert answer.usage is not None
    assert body["usage"] == {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": 24,
        "total_tokens": prompt_tokens + 24,
    }
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (prompt_tokens, 24)
    assert answer.usage.engine_us > 0


async def test_a_stream_writes_the_same_answer_piece_by_piece(upstream: LocalUpstream) -> None:
    whole, reader = await upstream.call(call_of(**GREEDY)), Reader()
    streamed = await upstream.call(call_of(**GREEDY, writer=reader))
    assert text_of(streamed) == text_of(whole) == reader.record.texts[1]
    assert len(reader.deltas) > 5


async def test_a_character_is_never_torn(upstream: LocalUpstream) -> None:
    """Random tokens make broken UTF-8: what never becomes a character is told as U+FFFD, the rest as it is."""
    readers = [Reader() for _ in range(8)]
    asked = [call_of(str(i), seed=i, max_tokens=40, writer=reader) for i, reader in enumerate(readers)]
    answers = await asyncio.gather(*map(upstream.call, asked))
    for reader, answer in zip(readers, answers, strict=True):
        assert "".join(delta["content"] for delta in reader.deltas) == text_of(answer)
    assert any("\ufffd" in text_of(answer) for answer in answers)


async def test_a_seed_gives_the_same_answer_in_any_company(upstream: LocalUpstream) -> None:
    alone = text_of(await upstream.call(call_of(seed=7, temperature=1, max_tokens=24)))
    calls = [call_of(f"neighbour {i}", max_tokens=10 + 4 * i) for i in range(6)]
    crowd = await asyncio.gather(*map(upstream.call, [*calls, call_of(seed=7, temperature=1, max_tokens=24)]))
    assert text_of(crowd[-1]) == alone
    assert text_of(await upstream.call(call_of(seed=8, temperature=1, max_tokens=24))) != alone


async def test_a_stop_string_across_tokens_ends_the_answer_before_it(upstream: LocalUpstream) -> None:
    whole = text_of(await upstream.call(call_of(**GREEDY)))
    reader = Reader()
    await upstream.call(call_of(**GREEDY, writer=reader))
    first, second = reader.deltas[2]["content"], reader.deltas[3]["content"]
    stop = first[-1] + second[0]
    assert stop in whole
    stopped_reader = Reader()
    stopped = await upstream.call(call_of(**GREEDY, stop=[stop, "never there"], writer=stopped_reader))
    assert text_of(stopped) == stopped_reader.record.texts[1] == whole.partition(stop)[0]
    assert stopped.finish_reason == "stop"
    assert stopped.usage is not None
    assert 0 < stopped.usage.completion_tokens < 24


async def test_without_max_tokens_an_answer_has_the_room_that_is_left(upstream: LocalUpstream) -> None:
    answer = await upstream.call(call_of(temperature=0))
    assert answer.usage is not None
    assert answer.usage.total_tokens == 256 or answer.finish_reason == "stop"


BAD: list[tuple[dict[str, Any], str, str]] = [
    ({"temperature": -1}, "1210", "temperature"),
    ({"top_p": 7}, "1210", "top_p"),
    ({"top_k": -9}, "1210", "top_k"),
    ({"n": 3}, "1210", "n:"),
    ({"tools": [{"type": "function"}]}, "1210", "tools"),
    ({"max_tokens": 100_000}, "1210", "max_tokens"),
    ({"prompt": "word " * 300}, "1261", "the prompt has"),
    ({"endpoint": "embeddings"}, "1210", "chat completions only"),
]


async def test_bad_requests_are_refused_for_good_and_leave_their_neighbours_unharmed(upstream: LocalUpstream) -> None:
    alone = [text_of(await upstream.call(call_of(f"good {i}", **GREEDY))) for i in range(len(BAD))]
    sent: list[str] = []
    bad = [call_of(**fields, on_sent=lambda: sent.append("bad")) for fields, _, _ in BAD]
    good = [call_of(f"good {i}", **GREEDY) for i in range(len(BAD))]
    mixed = [call for pair in zip(bad, good, strict=True) for call in pair]
    ended = await asyncio.gather(*map(upstream.call, mixed), return_exceptions=True)
    for (_, code, told), refusal in zip(BAD, ended[::2], strict=True):
        assert isinstance(refusal, UpstreamError)
        assert (refusal.code, refusal.http_status) == (code, 400)
        assert told in str(refusal)
        assert verdicts.judge(refusal).action is Action.FAIL
    assert sent == []
    assert [text_of(answer) for answer in ended[1::2] if isinstance(answer, Answer)] == alone


async def test_a_cancelled_call_ends_at_once_and_says_what_it_came_to(upstream: LocalUpstream) -> None:
    reader, noted = Reader(), list[TokenUsage]()
    call = call_of(temperature=0, max_tokens=200, writer=reader, note_usage=noted.append)
    running = asyncio.create_task(upstream.call(call))
    async with asyncio.timeout(LIMIT_S):
        await reader.begun.wait()
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
    assert len(noted) == 1
    assert 0 < noted[0].completion_tokens < 200
    assert noted[0].engine_us > 0


async def test_a_call_that_takes_too_long_is_ended_by_the_engine(upstream: LocalUpstream) -> None:
    with pytest.raises(UpstreamError) as late:
        await upstream.call(call_of(temperature=0, max_tokens=200, timeout_s=0.0))
    assert late.value.kind == "timeout"


async def test_a_call_and_a_stop_end_though_the_device_hangs(loaded: Loaded, monkeypatch: pytest.MonkeyPatch) -> None:
    goes_on = threading.Event()
    forward = loaded.model.forward

    def hang(*args: Any, **kwargs: Any) -> Any:
        goes_on.wait(2 * LIMIT_S)
        return forward(*args, **kwargs)

    hanging = LocalUpstream(loaded, prefill_tokens=64, on_dead=lambda _: None)
    monkeypatch.setattr(loaded.model, "forward", hang)
    for place in ("engine", "upstream"):  # nobody waits for a minute
        monkeypatch.setattr(f"worker.upstreams.local.{place}.HANG_S", 0.0)
    with pytest.raises(UpstreamError, match="its device hangs") as silence:
        await hanging.call(call_of(**GREEDY, timeout_s=0.1))
    assert silence.value.kind == "timeout"
    async with asyncio.timeout(LIMIT_S):
        await hanging.close()
    assert not goes_on.is_set()
    goes_on.set()


async def test_a_fault_in_writing_one_answer_down_is_that_ones_own(
    upstream: LocalUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Broken(Reader):
        def add(self, delta: Mapping[str, Any]) -> None:
            raise ZeroDivisionError

    calls = [call_of(**GREEDY, writer=Broken()), call_of(**GREEDY, writer=Reader())]
    broken, whole = await asyncio.gather(*map(upstream.call, calls), return_exceptions=True)
    assert isinstance(broken, UpstreamError)
    assert isinstance(whole, Answer)
    assert text_of(await upstream.call(call_of(**GREEDY))) == text_of(whole)


async def test_a_closed_upstream_refuses_as_one_that_was_never_asked(loaded: Loaded) -> None:
    closed = LocalUpstream(loaded, prefill_tokens=64, on_dead=lambda _: None)
    await closed.close()
    with pytest.raises(UpstreamError) as refusal:
        await closed.call(call_of(**GREEDY))
    assert refusal.value.kind == "connect"


async def test_the_device_dies_and_what_began_is_known_by_what_it_came_to(
    loaded: Loaded, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A GPU is not at hand: the model's own code raises what torch raises of one."""
    deaths: list[BaseException] = []
    dying = LocalUpstream(loaded, prefill_tokens=64, on_dead=deaths.append)
    reader = Reader()
    running = asyncio.create_task(dying.call(call_of(temperature=0, max_tokens=200, writer=reader)))
    async with asyncio.timeout(LIMIT_S):
        await reader.begun.wait()

        def broken(*_args: object, **_kwargs: object) -> None:
            raise RuntimeError("CUDA error: an illegal memory access was encountered")

        monkeypatch.setattr(loaded.model, "forward", broken)
        with pytest.raises(UpstreamError) as death:
            await running
    verdict = verdicts.judge(death.value)
    assert verdict.action is Action.RETRY_UNCERTAIN
    assert death.value.usage is not None
    assert death.value.usage.completion_tokens > 0
    await dying.close()
    assert "CUDA error" in str(deaths[0])
