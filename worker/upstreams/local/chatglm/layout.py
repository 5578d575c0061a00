"""Which tensor of the native model is which part of which original one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum

import torch

from worker.upstreams.local.chatglm.architecture import Architecture

EMBEDDING = "transformer.embedding.word_embeddings.weight"
NORM = "transformer.encoder.final_layernorm.weight"
HEAD = "transformer.output_layer.weight"
UNUSED = "rotary_pos_emb.inv_freq"
"""A name's end: rotary frequencies, which both models compute."""


class Part(Enum):
    """Which rows of `query_key_value`; WHOLE: of another tensor, all."""

    QUERY = 0
    KEY = 1
    VALUE = 2
    WHOLE = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """What the native tensor `name` is made of."""

    name: str
    original: str
    whole_shape: tuple[int, ...]
    """Of the original tensor."""
    part: Part = Part.WHOLE


def sources(model: Architecture, *, tied: bool) -> list[Source]:
    """Every tensor of the native model, in its order. `tied`: the head is the embedding."""
    words = (model.vocabulary, model.hidden)
    found = [Source(name="model.embed_tokens.weight", original=EMBEDDING, whole_shape=words)]
    for layer in range(model.layers):
        found += _of_layer(model, layer)
    found.append(Source(name="model.norm.weight", original=NORM, whole_shape=(model.hidden,)))
    if not tied:
        found.append(Source(name="lm_head.weight", original=HEAD, whole_shape=words))
    return found


def cut(model: Architecture, whole: torch.Tensor, part: Part) -> torch.Tensor:
    """The rows of `part` out of `whole`, in the order of heads."""
    if part is Part.WHOLE:
        return whole
    if model.interleaved:
        by_head = whole.reshape(model.heads, 3, model.head_dim, *whole.shape[1:])
        of_part: torch.Tensor = by_head[:, part.value].reshape(-1, *whole.shape[1:])
        return of_part
    if part is Part.QUERY:
        return whole.narrow(0, 0, model.query_rows)
    before = model.query_rows if part is Part.KEY else model.query_rows + model.group_rows
    return whole.narrow(0, before, model.group_rows)


def rows(model: Architecture, source: Source) -> tuple[int, ...]:
    """The native tensor's shape."""
    if source.part is Part.WHOLE:
        return source.whole_shape
    return (model.query_rows if source.part is Part.QUERY else model.group_rows, *source.whole_shape[1:])


def original_layer(layer: int) -> str:
    return f"transformer.encoder.layers.{layer}"


def _of_layer(model: Architecture, layer: int) -> Iterator[Source]:
    new, old = f"model.layers.{layer}", original_layer(layer)
    qkv_rows = model.query_rows + 2 * model.group_rows
    for kind, shape in (("weight", (qkv_rows, model.hidden)), ("bias", (qkv_rows,))):
        if kind == "bias" and not model.qkv_bias:
            continue
        for letter, part in zip("qkv", Part, strict=False):
            name = f"{new}.self_attn.{letter}_proj.{kind}"
            yield Source(
                name=name, original=f"{old}.self_attention.query_key_value.{kind}", whole_shape=shape, part=part
            )
    whole = (
        ("self_attn.o_proj", "self_attention.dense", (model.hidden, model.query_rows)),
        ("mlp.gate_up_proj", "mlp.dense_h_to_4h", (2 * model.ffn, model.hidden)),
        ("mlp.down_proj", "mlp.dense_4h_to_h", (model.hidden, model.ffn)),
        ("input_layernorm", "input_layernorm", (model.hidden,)),
        ("post_attention_layernorm", "post_attention_layernorm", (model.hidden,)),
    )
    for after, before, extent in whole:
        yield Source(name=f"{new}.{after}.weight", original=f"{old}.{before}.weight", whole_shape=extent)
