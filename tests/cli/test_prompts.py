from __future__ import annotations

import json
from typing import Any

import pytest

from tollgate.cli import prompts
from tollgate.cli.prompts import Defaults, Line

DEFAULTS = Defaults(model="glm-4-flash")
USER = [{"role": "user", "content": "hi"}]


def read(*lines: bytes, defaults: Defaults = DEFAULTS, form: prompts.Format = "jsonl") -> list[Line]:
    return list(prompts.from_lines(lines, name="f.jsonl", form=form, defaults=defaults))


def one(content: Any, *, defaults: Defaults = DEFAULTS) -> Line:
    (line,) = read(json.dumps(content).encode(), defaults=defaults)
    return line


def test_an_argument_is_a_user_message_to_the_default_model() -> None:
    (line,) = prompts.from_arguments(["hi"], defaults=DEFAULTS)
    assert line.task == {"model": "glm-4-flash", "messages": USER}
    assert line.place == "prompt 1"


def test_a_text_line_may_hold_any_character_but_a_line_break() -> None:
    lines = read("a\u2028b\x85c\r\n".encode(), b"\n", b"\xef\xbb\xbf{not json}\n", form="text")
    assert [line.task["messages"][0]["content"] for line in lines if line.task] == ["a\u2028b\x85c", "{not json}"]
    assert [line.number for line in lines] == [1, 3]


def test_a_task_object_is_taken_as_it_is() -> None:
    given = {"model": "glm-4-air", "prompt": "hi", "label": "x", "top_p": 0.5}
    assert one(given).task == given


@pytest.mark.parametrize("url", ["/v4/chat/completions", "/v1/chat/completions", None])
def test_a_batch_line_is_its_body_with_its_custom_id(url: str | None) -> None:
    batch = {
        "custom_id": "c-1",
        "method": "POST",
        "url": url,
        "body": {"model": "m", "messages": USER, "stream": False},
    }
    line = one(batch)
    assert line.task == {"model": "m", "messages": USER, "custom_id": "c-1"}
    assert line.custom_id == "c-1"


def test_the_line_wins_over_the_options() -> None:
    defaults = Defaults(model="glm-4-flash", parameters={"temperature": 0.1, "label": "option"})
    task = one({"prompt": "hi", "label": "line", "temperature": None}, defaults=defaults).task
    assert task == {"model": "glm-4-flash", "temperature": 0.1, "label": "line", "prompt": "hi"}


@pytest.mark.parametrize(
    ("given", "messages"),
    [
        ({"prompt": "hi"}, [{"role": "system", "content": "S"}, *USER]),
        ({"messages": USER}, [{"role": "system", "content": "S"}, *USER]),
        (
            {"messages": [{"role": "system", "content": "own"}, *USER]},
            [{"role": "system", "content": "own"}, *USER],
        ),
    ],
)
def test_the_system_message_stands_first_unless_the_line_has_one(given: Any, messages: Any) -> None:
    task = one(given, defaults=Defaults(model="m", system="S")).task
    assert task == {"model": "m", "messages": messages}


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        (b"{", "not JSON"),
        (b"[1]", "this is a list"),
        (b'"text"', "this is a string"),
        (b"{}", 'neither "prompt" nor "messages"'),
        (b'{"messages": []}', 'neither "prompt" nor "messages"'),
        (b'{"body": 3}', "body: a JSON object is needed, this is a number"),
        (b'{"body": {}, "url": "/v1/embeddings"}', "not a chat completion"),
        (b'{"prompt": "hi", "x": NaN}', "NaN is no JSON number"),
        (b'{"prompt": "\\ud800"}', "half of a surrogate pair"),
        (b'{"prompt": "\xff"}', "not UTF-8: byte 13 is 0xff"),
        (b"[" * 100_000, "not JSON"),
    ],
)
def test_a_bad_line_says_why_and_the_others_go_on(line: bytes, problem: str) -> None:
    first, bad, last = read(b'{"prompt": "a"}', line, b'{"prompt": "b"}')
    assert first.task is not None
    assert last.task is not None
    assert bad.task is None
    assert problem in str(bad.problem)
    assert (bad.place, bad.number) == ("f.jsonl:2", 2)


@pytest.mark.parametrize(
    ("name", "first", "form"),
    [
        ("a.jsonl", b"text", "jsonl"),
        ("a.ndjson", b"", "jsonl"),
        ("a.txt", b'{"prompt": "x"}', "text"),
        ("stdin", b'{"prompt": "x"}', "jsonl"),
        ("stdin", b"{curly} text", "text"),
        ("/data.d/prompts", b"text", "text"),
    ],
)
def test_the_format_is_told_by_the_name_else_by_the_first_line(name: str, first: bytes, form: str) -> None:
    assert prompts.guess_format(name, first) == form
