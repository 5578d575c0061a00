"""What a line of a batch asks for, and why one is refused."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from gateway.batches.lines import URLS, InvalidLineError, LineCode, LineDefaults, parse, refused, too_long
from tollgate.domain.errors import InvalidRequestError, PermissionDeniedError, UnknownModelError
from tollgate.domain.states import OnUncertain
from tollgate.domain.tasks import TaskRequest

MESSAGES = [{"role": "user", "content": "hi"}]
NO_DEFAULTS = LineDefaults()


def upstream_kind(model: object) -> str:
    if model == "unknown":
        raise UnknownModelError("unknown", known=("glm-4.7",))
    return {"glm-4.7": "zhipu", "qwen": "openai"}.get(str(model), "")


def asked(given: Any, *, defaults: LineDefaults = NO_DEFAULTS) -> TaskRequest:
    return parse(orjson.dumps(given), defaults=defaults, upstream_kind=upstream_kind)


def refusal(given: Any, *, defaults: LineDefaults = NO_DEFAULTS) -> InvalidLineError:
    raw = given if isinstance(given, bytes) else orjson.dumps(given)
    with pytest.raises(InvalidLineError) as caught:
        parse(raw, defaults=defaults, upstream_kind=upstream_kind)
    return caught.value


def call(url: str | None = "/v1/chat/completions", **body: Any) -> dict[str, Any]:
    """A line; `body` stands for the message and the model where it does not say them."""
    return {
        "custom_id": "r-1",
        "method": "POST",
        "url": url,
        "body": {"model": "glm-4.7", "messages": MESSAGES, **body},
    }


def embedding(url: str = "/v4/embeddings", **body: Any) -> dict[str, Any]:
    return {"custom_id": "r-1", "url": url, "body": {"model": "embedding-3", "input": ["a", "b"], **body}}


class TestCalls:
    def test_a_chat_keeps_its_body_and_its_name(self) -> None:
        request = asked(call(max_tokens=5, temperature=0.5))
        body = {"model": "glm-4.7", "messages": MESSAGES, "max_tokens": 5, "temperature": 0.5}
        assert request == TaskRequest(model="glm-4.7", body=body, custom_id="r-1")

    @pytest.mark.parametrize("url", [url for url, (_, endpoint) in URLS.items() if endpoint == "embeddings"])
    def test_embeddings(self, url: str) -> None:
        request = asked(embedding(url, encoding_format="base64", dimensions=512))
        body = {"model": "embedding-3", "input": ["a", "b"], "dimensions": 512}
        assert request == TaskRequest(model="embedding-3", body=body, custom_id="r-1", endpoint="embeddings")

    def test_v1_is_told_in_the_words_of_its_upstream(self) -> None:
        said: dict[str, Any] = {"temperature": 1.5, "max_completion_tokens": 7, "stop": "x", "n": 1}
        sent = asked(call(**said)).body
        assert sent == {
            "model": "glm-4.7", "messages": MESSAGES, "temperature": 1.0, "max_tokens": 7, "stop": ["x"]
        }  # fmt: skip
        assert asked(call(model="qwen", **said)).body == {"model": "qwen", "messages": MESSAGES, **said}

    @pytest.mark.parametrize("url", ["/v4/chat/completions", "/api/paas/v4/chat/completions"])
    def test_v4_is_checked_as_zhipuai_documents_it(self, url: str) -> None:
        assert asked(call(url, thinking={"type": "disabled"})).body["thinking"] == {"type": "disabled"}
        assert refusal(call(url, temperature=1.5)).field == "body.temperature"

    def test_method_and_nulls_may_be_left_out(self) -> None:
        line = {"custom_id": "r-1", "url": "/v1/chat/completions", "body": {**call()["body"], "stop": None}}
        assert asked(line) == asked(call())

    def test_a_request_id_is_dropped_and_a_stream_that_is_none_too(self) -> None:
        for url in ("/v1/chat/completions", "/v4/chat/completions"):
            assert asked(call(url, request_id="x", stream=False)) == asked(call(url))
            assert asked(call(url, stream=None)) == asked(call(url))

    def test_the_gateways_own_words_stand_beside_the_body(self) -> None:
        line = {**call(), "label": "a", "metadata": {"row": 1}, "on_uncertain": "fail", "note": "the client's own"}
        request = asked(line)
        assert (request.label, request.metadata, request.on_uncertain) == ("a", {"row": 1}, OnUncertain.FAIL)


class TestTasks:
    def test_a_prompt_is_enough(self) -> None:
        request = asked({"model": "glm-4.7", "prompt": "hi"})
        assert request == TaskRequest(model="glm-4.7", body={"model": "glm-4.7", "messages": MESSAGES})

    def test_all_that_a_line_may_say(self) -> None:
        own = {"custom_id": "r-1", "label": "a", "metadata": {"x": 1}, "on_uncertain": "fail", "request_id": "dropped"}
        request = asked({"model": "glm-4.7", "messages": MESSAGES, "max_tokens": 3, **own})
        assert request == TaskRequest(
            model="glm-4.7",
            body={"model": "glm-4.7", "messages": MESSAGES, "max_tokens": 3},
            custom_id="r-1",
            label="a",
            metadata={"x": 1},
            on_uncertain=OnUncertain.FAIL,
        )

    def test_nul_in_texts_is_no_fault(self) -> None:
        request = asked({"model": "glm-4.7", "prompt": "a\0b", "metadata": {"\0": "\0"}})
        assert request.body["messages"][0]["content"] == "a\0b"


class TestDefaults:
    DEFAULTS = LineDefaults(
        endpoint="/v1/chat/completions",
        model="qwen",
        label="night",
        system="be short",
        parameters={"max_tokens": 9, "temperature": 0.1},
    )

    def test_they_fill_what_a_line_leaves_out(self) -> None:
        system = {"role": "system", "content": "be short"}
        body = {"model": "qwen", "messages": [system, *MESSAGES], "max_tokens": 9, "temperature": 0.1}
        assert asked({"prompt": "hi"}, defaults=self.DEFAULTS) == TaskRequest(model="qwen", body=body, label="night")
        line = {"custom_id": "r-1", "body": {"messages": MESSAGES}}
        expected = TaskRequest(model="qwen", body=body, label="night", custom_id="r-1")
        assert asked(line, defaults=self.DEFAULTS) == expected

    def test_the_lines_own_words_win(self) -> None:
        own: dict[str, Any] = {"model": "glm-4.7", "max_tokens": 1, "temperature": 0.9}
        messages = [{"role": "system", "content": "be long"}, *MESSAGES]
        request = asked({"messages": messages, "label": "own", **own}, defaults=self.DEFAULTS)
        assert request.body == {"messages": messages, **own}
        assert request.label == "own"
        request = asked({**call(messages=messages, **own), "label": "own"}, defaults=self.DEFAULTS)
        assert request.body == {"messages": messages, **own}
        assert request.label == "own"

    def test_null_is_not_said(self) -> None:
        request = asked({"prompt": "hi", "max_tokens": None, "model": None}, defaults=self.DEFAULTS)
        assert (request.model, request.body["max_tokens"]) == ("qwen", 9)

    def test_another_name_of_max_tokens_is_said(self) -> None:
        line = call(model="qwen", max_completion_tokens=3)
        body = asked(line, defaults=self.DEFAULTS).body
        assert "max_tokens" not in body
        assert body["max_completion_tokens"] == 3

    def test_a_developers_message_is_a_system_message(self) -> None:
        messages = [{"role": "developer", "content": "be long"}, *MESSAGES]
        assert asked(call(model="qwen", messages=messages), defaults=self.DEFAULTS).body["messages"] == messages

    def test_the_wire_of_the_url_does_not_matter(self) -> None:
        v4 = LineDefaults(endpoint="/v4/chat/completions")
        assert asked(call(temperature=1.5), defaults=v4).body["temperature"] == 1.0
        assert asked(call("/api/paas/v4/chat/completions"), defaults=self.DEFAULTS).model == "glm-4.7"

    def test_without_a_url_it_is_in_the_words_of_the_batchs_endpoint(self) -> None:
        line = call(None, temperature=1.5)
        assert asked(line, defaults=self.DEFAULTS).body["temperature"] == 1.0
        assert refusal(line, defaults=LineDefaults(endpoint="/v4/chat/completions")).field == "body.temperature"

    def test_a_system_message_is_for_chats(self) -> None:
        defaults = LineDefaults(endpoint="/v1/embeddings", system="be short")
        assert asked(embedding(), defaults=defaults).body == {"model": "embedding-3", "input": ["a", "b"]}


DEEP: Any = {}
for _ in range(250):
    DEEP = {"d": DEEP}

REFUSALS: list[tuple[Any, LineCode, str | None, str]] = [
    (b"", LineCode.INVALID_JSON, None, "not JSON"),
    (b'{"prompt": "hi",}', LineCode.INVALID_JSON, None, "at column 16"),
    (b'{"prompt": NaN}', LineCode.INVALID_JSON, None, "not JSON"),
    (b'{"prompt": "\\ud800"}', LineCode.INVALID_JSON, None, "surrogate"),
    (b'{"prompt": "\xed\xa0\x80"}', LineCode.INVALID_JSON, None, "not UTF-8: invalid continuation byte at byte 13"),
    (b'{"prompt": "\x00"}', LineCode.INVALID_JSON, None, "control character"),
    ('{"prompt": "hi"}'.encode("utf-16"), LineCode.INVALID_JSON, None, "not UTF-8"),
    (b"[" * 100_000, LineCode.INVALID_JSON, None, "depth"),
    (DEEP, LineCode.INVALID_VALUE, "body", "nested too deeply"),
    (b"[]", LineCode.INVALID_JSON, None, "not a JSON object"),
    (b"null", LineCode.INVALID_JSON, None, "not a JSON object"),
    (b'"a prompt"', LineCode.INVALID_JSON, None, "not a JSON object"),
    ({}, LineCode.MISSING_VALUE, "model", "model"),
    ({"model": "glm-4.7"}, LineCode.MISSING_VALUE, "messages", "messages"),
    ({"model": "glm-4.7", "prompt": ""}, LineCode.INVALID_VALUE, "prompt", "at least 1"),
    ({"model": "glm-4.7", "prompt": "a", "messages": MESSAGES}, LineCode.INVALID_VALUE, "prompt", "not both"),
    ({"model": "glm-4.7", "prompt": "a", "temperature": 1.5}, LineCode.INVALID_VALUE, "temperature", "from 0 to 1"),
    ({"model": "glm-4.7", "prompt": "a", "stream": True}, LineCode.INVALID_VALUE, "stream", "leave it out"),
    ({"model": "glm-4.7", "prompt": "a", "stream": "no"}, LineCode.INVALID_VALUE, "stream", "leave it out"),
    ({"model": "glm-4.7", "prompt": "a", "custom_id": 7}, LineCode.INVALID_VALUE, "custom_id", "string"),
    ({"model": "glm-4.7", "prompt": "a", "custom_id": "a\0"}, LineCode.INVALID_VALUE, "custom_id", "no control"),
    ({"model": "glm-4.7", "prompt": "a", "metadata": {"x": "y" * 20_000}}, LineCode.INVALID_VALUE, "metadata", "long"),
    ({"model": "glm-4.7", "prompt": "a", "callback_url": "x"}, LineCode.INVALID_VALUE, "callback_url", "says it"),
    ({"model": "glm-4.7", "prompt": "a", "run_after": 1}, LineCode.INVALID_VALUE, "run_after", "the batch says it"),
    ({"model": "glm-4.7", "prompt": "a", "expires_at": 1}, LineCode.INVALID_VALUE, "expires_at", "the batch says it"),
    ({"model": "glm-4.7", "prompt": "a", "priority": "bulk"}, LineCode.INVALID_VALUE, "priority", "the batch says it"),
    ({"model": "glm-4.7", "prompt": "a", "mode": "async"}, LineCode.INVALID_VALUE, "mode", "the batch says it"),
    ({**call(), "priority": "bulk"}, LineCode.INVALID_VALUE, "priority", "the batch says it"),
    ({**call(), "custom_id": None}, LineCode.MISSING_VALUE, "custom_id", "custom_id"),
    ({**call(), "custom_id": ""}, LineCode.INVALID_VALUE, "custom_id", "1 to 256"),
    ({**call(), "custom_id": "x" * 257}, LineCode.INVALID_VALUE, "custom_id", "1 to 256"),
    ({**call(), "custom_id": "a\nb"}, LineCode.INVALID_VALUE, "custom_id", "1 to 256"),
    ({**call(), "method": "GET"}, LineCode.INVALID_VALUE, "method", "POST"),
    ({**call(), "body": None}, LineCode.MISSING_VALUE, "body", "body"),
    ({**call(), "body": "{}"}, LineCode.INVALID_VALUE, "body", "a JSON object"),
    ({**call(), "label": ""}, LineCode.INVALID_VALUE, "label", "1 to 64"),
    ({**call(), "on_uncertain": "ask"}, LineCode.INVALID_VALUE, "on_uncertain", "'retry' or 'fail'"),
    ({**call(), "metadata": {"x": "y" * 20_000}}, LineCode.INVALID_VALUE, "metadata", "too long"),
    (call(None), LineCode.MISSING_VALUE, "url", "/v1/chat/completions or "),
    (call("/v1/completions"), LineCode.INVALID_VALUE, "url", "'/v1/completions'"),
    (call("x\0" * 500), LineCode.INVALID_VALUE, "url", "cannot call"),
    (call(model="unknown"), LineCode.MODEL_NOT_FOUND, "model", "known models: glm-4.7"),
    (call(model=None), LineCode.MISSING_VALUE, "body.model", "model"),
    (call(model=7), LineCode.INVALID_VALUE, "body.model", "string"),
    (call(messages=[]), LineCode.INVALID_VALUE, "body.messages", "at least 1"),
    (call(messages=[{"role": "me", "content": "x"}]), LineCode.INVALID_VALUE, "body.messages.0.role", "'user'"),
    (call(messages=[{"role": "user"}]), LineCode.MISSING_VALUE, "body.messages.0.content", "required"),
    (call(temperature=2.5), LineCode.INVALID_VALUE, "body.temperature", "a number from 0 to 2"),
    (call(max_tokens=0), LineCode.INVALID_VALUE, "body.max_tokens", "an integer from 1"),
    (call(n=2), LineCode.INVALID_VALUE, "body.n", "one answer"),
    (call(stream=True), LineCode.INVALID_VALUE, "body.stream", "leave it out"),
    (embedding(input=[]), LineCode.INVALID_VALUE, "body.input", "1 to 2048"),
    (embedding(stream=True), LineCode.INVALID_VALUE, "body.stream", "leave it out"),
]  # fmt: skip


@pytest.mark.parametrize(("given", "code", "field", "told"), REFUSALS)
def test_a_line_is_refused_with_its_reason(given: Any, code: LineCode, field: str | None, told: str) -> None:
    error = refusal(given)
    assert (error.code, error.field) == (code, field)
    assert told in error.message
    assert "\0" not in error.message
    assert len(error.message) <= 1_000


@pytest.mark.parametrize(
    ("given", "told"),
    [(embedding(), "the batch is for /v1/chat/completions"), (call("/v1/responses"), "cannot call")],
)
def test_a_url_must_fit_the_batchs_endpoint(given: Any, told: str) -> None:
    error = refusal(given, defaults=LineDefaults(endpoint="/v1/chat/completions"))
    assert error.field == "url"
    assert told in error.message


def test_a_task_is_no_line_of_a_batch_of_embeddings() -> None:
    error = refusal({"model": "embedding-3", "prompt": "a"}, defaults=LineDefaults(endpoint="/v4/embeddings"))
    assert (error.code, error.field) == (LineCode.MISSING_VALUE, "url")


@pytest.mark.parametrize(
    ("custom_id", "told"),
    [("r-1", "r-1"), ("请求 1", "请求 1"), ("a\0", None), ("x" * 257, None), ("", None), (7, None), (None, None)],
)
def test_a_refusal_names_its_line_where_its_name_is_a_good_one(custom_id: Any, told: str | None) -> None:
    assert refusal({**call(temperature=3), "custom_id": custom_id}).custom_id == told
    assert refusal({"prompt": "", "custom_id": custom_id}).custom_id == told


@pytest.mark.parametrize(
    ("error", "code", "field"),
    [
        (UnknownModelError("x", known=()), LineCode.MODEL_NOT_FOUND, "model"),
        (PermissionDeniedError("no"), LineCode.PERMISSION_DENIED, None),
        (InvalidRequestError("no", field="max_tokens", allowed="less"), LineCode.INVALID_VALUE, "max_tokens"),
    ],
)
def test_what_admission_refuses_has_a_reason_too(error: Any, code: LineCode, field: str | None) -> None:
    found = refused(error, custom_id="r-1")
    assert (found.code, found.field, found.custom_id) == (code, field, "r-1")


def test_a_line_that_is_too_long_has_one() -> None:
    assert (too_long(10_000_000).code, too_long(10_000_000).message) == (
        LineCode.TOO_LONG,
        "the line is over 10,000,000 bytes",
    )
