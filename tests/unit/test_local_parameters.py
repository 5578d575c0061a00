"""What the local engine makes of a body, and what it refuses."""

from __future__ import annotations

from typing import Any

import pytest

from tollgate.domain import verdicts
from tollgate.domain.errors import UpstreamError
from tollgate.domain.verdicts import Action
from worker.upstreams.local import parameters
from worker.upstreams.local.parameters import SMALLEST_TOP_P, Defaults
from worker.upstreams.local.requests import Sampling

HELLO = [{"role": "user", "content": "hello"}]
DEFAULTS = Defaults(temperature=0.8, top_p=0.7, top_k=5)


def read(**body: Any) -> parameters.Parameters:
    return parameters.read({"model": "m", "messages": HELLO, **body}, DEFAULTS)


def test_what_is_not_said_is_as_the_checkpoint_has_it() -> None:
    asked = read()
    assert asked.sampling == Sampling(temperature=0.8, top_p=0.7, top_k=5, seed=None)
    assert (asked.max_tokens, asked.stop, asked.thinking) == (None, (), None)


@pytest.mark.parametrize(
    ("said", "sampling"),
    [
        (
            {"temperature": 0.2, "top_p": 0.9, "top_k": 40, "seed": 7},
            Sampling(temperature=0.2, top_p=0.9, top_k=40, seed=7),
        ),
        ({"temperature": 0.9, "do_sample": False}, Sampling(temperature=0.0, top_p=0.7, top_k=5)),
        ({"do_sample": True}, Sampling(temperature=0.8, top_p=0.7, top_k=5)),
        ({"temperature": 0}, Sampling(temperature=0.0, top_p=0.7, top_k=5)),
        ({"top_p": 0}, Sampling(temperature=0.8, top_p=SMALLEST_TOP_P, top_k=5)),
        ({"top_k": -1}, Sampling(temperature=0.8, top_p=0.7, top_k=0)),
        ({"seed": -1}, Sampling(temperature=0.8, top_p=0.7, top_k=5, seed=2**63 - 1)),
    ],
    ids=str,
)
def test_sampling_is_understood_in_openais_words_and_in_zhipuais(said: dict[str, Any], sampling: Sampling) -> None:
    assert read(**said).sampling == sampling


@pytest.mark.parametrize(
    ("said", "temperature"),
    [({}, 0.0), ({"top_p": 0.9}, 0.0), ({"do_sample": True}, 0.8), ({"temperature": 0.3}, 0.3)],
    ids=str,
)
def test_a_checkpoint_that_does_not_sample_takes_the_likeliest_token_unless_it_is_told_to(
    said: dict[str, Any], temperature: float
) -> None:
    greedy = Defaults(temperature=0.8, do_sample=False)
    assert parameters.read({"model": "m", "messages": HELLO, **said}, greedy).sampling.temperature == temperature


def test_openais_newer_name_of_max_tokens_wins() -> None:
    assert read(max_tokens=5).max_tokens == 5
    assert read(max_tokens=5, max_completion_tokens=7).max_tokens == 7


def test_stop_is_a_string_or_a_list_and_an_empty_one_stops_nothing() -> None:
    assert read(stop="end").stop == ("end",)
    assert read(stop=["a", "", "b"]).stop == ("a", "b")


@pytest.mark.parametrize(
    ("said", "thinking"),
    [
        ({"thinking": {"type": "enabled"}}, True),
        ({"thinking": {"type": "disabled"}}, False),
        ({"reasoning_effort": "none"}, False),
        ({"reasoning_effort": "high"}, None),
    ],
    ids=str,
)
def test_thinking_is_understood_in_both_words(said: dict[str, Any], thinking: bool | None) -> None:
    assert read(**said).thinking is thinking


def test_messages_are_texts_and_a_developer_is_the_system() -> None:
    parts = [{"type": "text", "text": "one "}, {"type": "text", "text": "two"}]
    asked = read(messages=[{"role": "developer", "content": "be brief"}, {"role": "user", "content": parts}])
    assert asked.messages == [{"role": "system", "content": "be brief"}, {"role": "user", "content": "one two"}]


@pytest.mark.parametrize(
    "said",
    [
        {"tools": [], "tool_choice": "auto", "n": 1, "logprobs": False, "top_logprobs": 0},
        {"response_format": {"type": "text"}, "frequency_penalty": 0.0, "presence_penalty": 0, "logit_bias": {}},
        {"user": "someone", "user_id": "someone", "metadata": {"a": "b"}, "service_tier": "auto"},
        {"stop": None, "seed": None, "temperature": None, "tools": None},
    ],
    ids=["asks for nothing", "neither", "says who asks", "null is not given"],
)
def test_what_changes_nothing_is_passed_over(said: dict[str, Any]) -> None:
    assert read(**said) == read()


BAD: list[tuple[dict[str, Any], str]] = [
    ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools"),
    ({"tool_choice": "required"}, "tool_choice"),
    ({"n": 2}, "n"),
    ({"logprobs": True}, "logprobs"),
    ({"response_format": {"type": "json_object"}}, "response_format"),
    ({"frequency_penalty": 0.5}, "frequency_penalty"),
    ({"logit_bias": {"5": 1}}, "logit_bias"),
    ({"modalities": ["text", "audio"]}, "modalities"),
    ({"temperature": -0.1}, "temperature"),
    ({"temperature": "hot"}, "temperature"),
    ({"temperature": True}, "temperature"),
    ({"temperature": float("nan")}, "temperature"),
    ({"temperature": float("inf")}, "temperature"),
    ({"top_p": 1.1}, "top_p"),
    ({"top_k": 1.5}, "top_k"),
    ({"top_k": -2}, "top_k"),
    ({"max_tokens": 0}, "max_tokens"),
    ({"max_tokens": "many"}, "max_tokens"),
    ({"seed": 1.5}, "seed"),
    ({"stop": 5}, "stop"),
    ({"stop": ["a", 5]}, "stop"),
    ({"thinking": {"type": "perhaps"}}, "thinking"),
    ({"messages": []}, "messages"),
    ({"messages": "hello"}, "messages"),
    ({"messages": ["hello"]}, "messages.0"),
    ({"messages": [{"role": "tool", "content": "42"}]}, "messages.0.role"),
    ({"messages": [{"role": "user"}]}, "messages.0.content"),
    ({"messages": [{"role": "assistant", "content": "", "tool_calls": [{}]}]}, "messages.0.tool_calls"),
    ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages.0.content"),
]


@pytest.mark.parametrize(("said", "name"), BAD, ids=str)
def test_what_cannot_be_done_is_refused_for_good_by_its_name(said: dict[str, Any], name: str) -> None:
    with pytest.raises(UpstreamError) as refusal:
        read(**said)
    assert str(refusal.value).partition(":")[0] == name
    assert verdicts.judge(refusal.value).action is Action.FAIL
