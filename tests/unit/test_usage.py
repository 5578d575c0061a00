"""Token counts: every form an upstream sends, and nothing believed that is not a count."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tollgate.domain import usage
from tollgate.domain.usage import TokenUsage


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (
            {"prompt_tokens": 9, "completion_tokens": 4, "total_tokens": 13},
            TokenUsage(prompt_tokens=9, completion_tokens=4),
        ),
        (
            {"prompt_tokens": 9, "completion_tokens": 4, "prompt_tokens_details": {"cached_tokens": 5}},
            TokenUsage(prompt_tokens=9, cached_tokens=5, completion_tokens=4),
        ),
        (
            {"prompt_tokens": 9, "completion_tokens": 4, "prompt_tokens_details": None},
            TokenUsage(prompt_tokens=9, completion_tokens=4),
        ),
        (
            {"prompt_tokens": 9, "completion_tokens": 4, "prompt_tokens_details": {"cached_tokens": None}},
            TokenUsage(prompt_tokens=9, completion_tokens=4),
        ),
        (
            {"prompt_tokens": 9, "completion_tokens": 4, "prompt_tokens_details": {"cached_tokens": 10}},
            TokenUsage(prompt_tokens=9, cached_tokens=9, completion_tokens=4),
        ),
        ({"prompt_tokens": 9, "total_tokens": 9}, TokenUsage(prompt_tokens=9)),
        ({"prompt_tokens": 9, "total_tokens": 12}, TokenUsage(prompt_tokens=9, completion_tokens=3)),
        ({"prompt_tokens": 9, "total_tokens": 3}, TokenUsage(prompt_tokens=9)),
        ({"prompt_tokens": 9, "completion_tokens": None}, TokenUsage(prompt_tokens=9)),
        ({"total_tokens": 217}, TokenUsage(prompt_tokens=217, split_known=False)),
        ({"prompt_tokens": 9.0, "completion_tokens": 4.0}, TokenUsage(prompt_tokens=9, completion_tokens=4)),
        ({"prompt_tokens": 9, "prompt_tokens_details": 5}, TokenUsage(prompt_tokens=9)),
        ({"prompt_tokens": 9, "prompt_tokens_details": {"cached_tokens": -5}}, TokenUsage(prompt_tokens=9)),
    ],
)
def test_each_form_of_usage_is_read(body: object, expected: TokenUsage) -> None:
    assert usage.parse_usage(body) == expected


@pytest.mark.parametrize(
    "body",
    [
        None,
        "12",
        [],
        {},
        {"prompt_tokens": -1},
        {"prompt_tokens": True},
        {"prompt_tokens": "9"},
        {"prompt_tokens": 9.5},
        {"prompt_tokens": float("nan")},
        {"prompt_tokens": 2**31},
        {"prompt_tokens": 9, "completion_tokens": -4},
        {"prompt_tokens": 9, "completion_tokens": "4"},
        {"prompt_tokens": 9, "total_tokens": "13"},
        {"total_tokens": None},
    ],
)
def test_unreadable_usage_is_none(body: object) -> None:
    assert usage.parse_usage(body) is None


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)
FIELDS = ("prompt_tokens", "completion_tokens", "total_tokens", "prompt_tokens_details", "cached_tokens")


@given(st.dictionaries(st.sampled_from(FIELDS), JSON) | JSON)
def test_no_usage_body_raises(body: object) -> None:
    usage.parse_usage(body)


def test_total_is_prompt_and_completion() -> None:
    assert TokenUsage(prompt_tokens=9, cached_tokens=5, completion_tokens=4).total_tokens == 13


@pytest.mark.parametrize(("prompt", "cached", "completion"), [(-1, 0, 0), (1, 2, 0), (1, -1, 0), (1, 0, -1)])
def test_impossible_counts_are_refused(prompt: int, cached: int, completion: int) -> None:
    with pytest.raises(ValueError, match="token counts"):
        TokenUsage(prompt_tokens=prompt, cached_tokens=cached, completion_tokens=completion)


def test_an_engine_runs_for_no_less_than_no_time() -> None:
    with pytest.raises(ValueError, match="engine_us"):
        TokenUsage(prompt_tokens=1, engine_us=-1)


def test_no_upstream_tells_the_time_of_a_local_engine() -> None:
    told = usage.parse_usage({"prompt_tokens": 9, "engine_us": 5})
    assert told is not None
    assert told.engine_us == 0


@pytest.mark.parametrize(
    ("body", "tokens"),
    [
        ({}, 0),
        ({"messages": [{"role": "user", "content": "a" * 35}]}, 14),  # 35 / 3.5 + 4
        ({"messages": [{"role": "user", "content": "你好吗"}]}, 6),  # 3 / 1.5 + 4
        ({"messages": [{"role": "user", "content": "你好吗" + "a" * 7}]}, 8),  # 2 + 2 + 4
        ({"messages": [{"role": "user", "content": "a"}]}, 5),  # rounded up
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": "a" * 35}]}]}, 14),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]}, 1_004),
        ({"messages": [{"role": "user", "content": None}]}, 4),
        ({"messages": ["a" * 35, 7, None]}, 11),
        ({"messages": [], "tools": ["a" * 31]}, 10),  # 35 characters of JSON
        ({"messages": [{"role": "assistant", "content": None, "tool_calls": ["a" * 31]}]}, 14),
        ({"input": ["a" * 35, "a" * 35]}, 20),
        ({"input": [101, 102, 103]}, 3),
        ({"prompt": [{"role": "user", "content": "a" * 35}]}, 14),
    ],
)
def test_prompt_tokens_are_estimated_from_the_characters(body: dict[str, object], tokens: int) -> None:
    assert usage.estimate_prompt_tokens(body) == tokens


@given(JSON, JSON, JSON)
def test_no_body_stops_the_estimate(messages: object, tools: object, text: object) -> None:
    assert usage.estimate_prompt_tokens({"messages": messages, "tools": tools, "input": text}) >= 0


@given(st.text(alphabet=st.characters(), max_size=40), st.text(alphabet=st.characters(), max_size=40))
def test_a_longer_text_is_never_estimated_shorter(text: str, more: str) -> None:
    shorter = usage.estimate_prompt_tokens({"input": text})
    assert usage.estimate_prompt_tokens({"input": text + more}) >= shorter
    assert usage.estimate_prompt_tokens({"input": "\ud800" + text}) >= shorter
