"""Which of the models of `model_type` chatglm a configuration describes, and what to do to run it. No torch."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Any


class Kind(StrEnum):
    """By what can be done with it."""

    CONVERTIBLE = "ChatGLM2 or ChatGLM3"
    FIRST = "ChatGLM-6B of the first generation"
    """2-D rotary positions and a mask over the prompt: transformers has no such model of its own."""
    GLM_4_REMOTE = "GLM-4 with code of its own"
    """What its makers also publish converted, under names that end in -hf."""
    UNKNOWN = "an unknown model of type chatglm"


def detect(config: Mapping[str, Any]) -> Kind | None:
    """The kind that config.json describes; None if its model_type is another."""
    if config.get("model_type") != "chatglm":
        return None
    if "position_encoding_2d" in config or "inner_hidden_size" in config:
        return Kind.FIRST
    if isinstance(config.get("eos_token_id"), list):  # GLM-4 ends at three tokens; ChatGLM2 and 3 say 2
        return Kind.GLM_4_REMOTE
    return Kind.CONVERTIBLE if "multi_query_attention" in config else Kind.UNKNOWN


def command(path: Path | str) -> str:
    """What converts the checkpoint at `path`, to be typed as it stands."""
    source = str(path).rstrip("/")
    return f"tollgate models convert {shlex.quote(source)} {shlex.quote(f'{source}-native')}"


def advice(kind: Kind, *, path: Path | str) -> str:
    """What to do with a checkpoint of this kind, one line."""
    if kind is Kind.CONVERTIBLE:
        return f"convert it, once: {command(path)}"
    if kind is Kind.FIRST:
        return "run it beside the worker, as a server of its own: see docs/chatglm.md"
    if kind is Kind.GLM_4_REMOTE:
        return "take the native checkpoint of the same model, whose name ends in -hf (zai-org/glm-4-9b-chat-hf)"
    return "only ChatGLM2 and ChatGLM3 can be converted: see docs/chatglm.md"
