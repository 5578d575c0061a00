"""Models of type chatglm are told apart, and each is given the way it runs."""

from __future__ import annotations

from typing import Any

import pytest

from tests.worker.local_chatglm import originals
from worker.upstreams.local.chatglm import detection
from worker.upstreams.local.chatglm.detection import Kind


@pytest.mark.parametrize(
    ("config", "kind", "advice"),
    [
        (originals.config(2), Kind.CONVERTIBLE, "convert it, once: tollgate models convert /m/x /m/x-native"),
        (originals.config(3), Kind.CONVERTIBLE, "convert it, once: tollgate models convert /m/x /m/x-native"),
        ({"model_type": "chatglm", "inner_hidden_size": 16384}, Kind.FIRST, "docs/chatglm.md"),
        (originals.config(3, eos_token_id=[151329]), Kind.GLM_4_REMOTE, "zai-org/glm-4-9b-chat-hf"),
        ({"model_type": "chatglm"}, Kind.UNKNOWN, "only ChatGLM2 and ChatGLM3"),
    ],
    ids=["2", "3", "1", "4", "unknown"],
)
def test_each_has_its_way(config: dict[str, Any], kind: Kind, advice: str) -> None:
    assert detection.detect(config) is kind
    assert advice in detection.advice(kind, path="/m/x/")


@pytest.mark.parametrize("model_type", ["glm", "llama", None])
def test_others_are_none_of_them(model_type: str | None) -> None:
    assert detection.detect({"model_type": model_type, "multi_query_attention": True}) is None


def test_the_command_can_be_typed_as_it_stands() -> None:
    assert detection.command("/my models/x") == "tollgate models convert '/my models/x' '/my models/x-native'"
