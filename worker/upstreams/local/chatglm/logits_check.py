"""The converted model beside the original: transformers' GLM on the new files, the reference on the old ones.

Layer by layer in float32, so that one layer of each is in memory, from the embedding to the logits.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import safetensors
import torch
from torch import Tensor
from transformers import GlmConfig
from transformers.models.glm.modeling_glm import GlmDecoderLayer, GlmRMSNorm, GlmRotaryEmbedding

from worker.upstreams.local.chatglm import layout, reference
from worker.upstreams.local.chatglm.architecture import Architecture
from worker.upstreams.local.chatglm.errors import MismatchError

TOKENS = 48
"""At random, at places all over the context."""
ALLOWED = 1e-3
"""Largest difference, as a part of the spread of the numbers compared. What float32 rounds stays below it; rows in
another order, a wrong base or a missing bias are hundreds of times over it."""
WORDS = 8_192
"""Rows of the vocabulary whose logits are computed at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """What was compared, and how far apart it was."""

    tokens: int
    words: int
    difference: float
    """The largest between two logits."""
    spread: float
    """Standard deviation of the logits."""
    code_difference: float | None = None
    """The largest from the logits of the original's own code, where that was run."""


def sample(model: Architecture) -> tuple[Tensor, Tensor]:
    """Tokens and their places, the same at every run."""
    chance = torch.Generator().manual_seed(0)
    count = min(TOKENS, model.context_tokens)
    ids = torch.randint(model.vocabulary, (count,), generator=chance)
    return ids, torch.randperm(model.context_tokens, generator=chance)[:count].sort().values


class _Converted:
    """The new files' tensors."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        index = folder / "model.safetensors.index.json"
        self._places: dict[str, str] = json.loads(index.read_text())["weight_map"] if index.exists() else {}

    def read(self, name: str) -> Tensor:
        path = self._folder / self._places.get(name, "model.safetensors")
        with safetensors.safe_open(path, framework="pt") as file:
            tensor: Tensor = file.get_tensor(name)
        return tensor


@torch.inference_mode()
def check(
    folder: Path,
    model: Architecture,
    *,
    read: reference.Read,
    tied: bool,
    answered: Tensor | None,
    told: Callable[[int], None],
) -> Agreement:
    """Compare the model in `folder` with the original's tensors. `told` hears of each layer.

    `answered`: the logits of `sample` by the original's own code, to compare with them too.
    Raises MismatchError at the first layer that differs, or at the logits."""
    ids, positions = sample(model)
    converted = _Converted(folder)
    config = GlmConfig.from_pretrained(folder, attn_implementation="sdpa")
    turns = GlmRotaryEmbedding(config)
    states = read(layout.EMBEDDING)[ids].float()
    native = converted.read("model.embed_tokens.weight")[ids].float()
    for number in range(model.layers):
        states = reference.layer(model, number, states, positions, read=read)
        native = _native_layer(config, turns, number, native, positions, converted)
        _compare(states, native, f"layer {number}")
        told(1)
    states = reference.normalize(states, read(layout.NORM).float(), model.epsilon)
    native = _native_norm(config, native, converted)
    head = (read(layout.EMBEDDING if tied else layout.HEAD), _native_head(config, converted))
    difference, spread = _of_logits(states, native, head)
    return Agreement(
        tokens=len(ids),
        words=model.vocabulary,
        difference=difference,
        spread=spread,
        code_difference=None if answered is None else _of_code(answered, native, head[1]),
    )


def _native_layer(
    config: GlmConfig, turns: GlmRotaryEmbedding, number: int, states: Tensor, positions: Tensor, converted: _Converted
) -> Tensor:
    with torch.device("meta"):
        made = GlmDecoderLayer(config, number).eval()
    prefix = f"model.layers.{number}."
    weights = {name: converted.read(prefix + name).float() for name in made.state_dict()}
    made.load_state_dict(weights, assign=True)
    batch, places = states[None], positions[None]
    turned = turns(batch, places)
    out: Tensor = made(batch, attention_mask=None, position_ids=places, position_embeddings=turned)
    return out[0]


def _native_norm(config: GlmConfig, states: Tensor, converted: _Converted) -> Tensor:
    made = GlmRMSNorm(config.hidden_size, eps=config.rms_norm_eps)
    made.load_state_dict({"weight": converted.read("model.norm.weight").float()})
    normed: Tensor = made(states)
    return normed


def _native_head(config: GlmConfig, converted: _Converted) -> Tensor:
    return converted.read("model.embed_tokens.weight" if config.tie_word_embeddings else "lm_head.weight")


def _of_logits(states: Tensor, native: Tensor, heads: tuple[Tensor, Tensor]) -> tuple[float, float]:
    """The largest difference, and the spread."""
    largest, spread = 0.0, 0.0
    for before, after in zip(torch.split(heads[0], WORDS), torch.split(heads[1], WORDS), strict=True):
        right = states @ before.float().T
        largest = max(largest, _compare(right, native @ after.float().T, "logits"))
        spread = max(spread, float(right.std()))
    return largest, spread


def _of_code(answered: Tensor, native: Tensor, head: Tensor) -> float:
    parts = zip(torch.split(answered, WORDS, dim=-1), torch.split(head, WORDS), strict=True)
    return max(_compare(right, native @ after.float().T, "logits of its own code") for right, after in parts)


def _compare(right: Tensor, got: Tensor, what: str) -> float:
    difference, spread = float((right - got).abs().max()), float(right.std())
    if not difference <= ALLOWED * spread:  # also where either is no number
        raise MismatchError(
            f"{what}: the converted model is {difference:.3g} away from the original, where {ALLOWED * spread:.3g} "
            "is allowed; the checkpoint is not what its configuration says"
        )
    return difference
