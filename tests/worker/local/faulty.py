"""Ways in which a real model goes wrong."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

POISON = 700
"""A token whose embedding is no number."""
BOMB = 701
"""A token that fails the pass that it comes into."""


def embeddings(model: PreTrainedModel) -> Tensor:
    """[vocabulary, width]."""
    found = model.get_input_embeddings()
    assert isinstance(found, torch.nn.Embedding)
    return found.weight


def poisoned(model: PreTrainedModel) -> PreTrainedModel:
    with torch.no_grad():
        embeddings(model)[POISON] = torch.nan
    return _never_answered(model, POISON)


def mined(model: PreTrainedModel, error: Exception) -> PreTrainedModel:
    """Raises `error` in every pass over BOMB."""

    def explode(ids: Tensor) -> None:
        if bool((ids == BOMB).any()):
            raise error

    return watched(_never_answered(model, BOMB), explode)


def _never_answered(model: PreTrainedModel, token: int) -> PreTrainedModel:
    def hook(_module: torch.nn.Module, _given: tuple[Any, ...], logits: Tensor) -> None:
        logits[..., token] = -1e9

    model.get_output_embeddings().register_forward_hook(hook)
    return model


def watched(model: PreTrainedModel, look: Callable[[Tensor], None]) -> PreTrainedModel:
    """`look` is given the tokens of every pass, before it: [1, new] of prompts, [rows, 1] of rows."""

    def hook(_module: torch.nn.Module, _given: tuple[Any, ...], named: dict[str, Any]) -> None:
        look(named["input_ids"])

    model.register_forward_pre_hook(hook, with_kwargs=True)
    return model
