"""What an original answers, by the reference, and what its conversion answers, by transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from tests.worker.local_chatglm.originals import Original
from worker.upstreams.local.chatglm import architecture, layout, reference


@torch.inference_mode()
def of_original(original: Original, ids: torch.Tensor) -> torch.Tensor:
    """Logits [tokens, vocabulary]."""
    model = architecture.read(original.config, generation=original.generation)
    states, positions = original.read(layout.EMBEDDING)[ids], torch.arange(len(ids))
    for number in range(model.layers):
        states = reference.layer(model, number, states, positions, read=original.read)
    states = reference.normalize(states, original.read(layout.NORM), model.epsilon)
    return states @ original.tensors.get(layout.HEAD, original.read(layout.EMBEDDING)).T


@torch.inference_mode()
def of_converted(folder: Path, ids: torch.Tensor) -> torch.Tensor:
    model: Any = AutoModelForCausalLM.from_pretrained(folder)
    logits: torch.Tensor = model.eval()(ids[None], use_cache=False).logits[0]
    return logits


def greedy_of_original(original: Original, ids: torch.Tensor, *, count: int) -> list[int]:
    for _ in range(count):
        ids = torch.cat((ids, of_original(original, ids)[-1:].argmax(-1)))
    return ids[-count:].tolist()


def greedy_of_converted(folder: Path, ids: torch.Tensor, *, count: int) -> list[int]:
    model: Any = AutoModelForCausalLM.from_pretrained(folder)
    made = model.eval().generate(
        ids[None], attention_mask=torch.ones(1, len(ids)), max_new_tokens=count, do_sample=False, eos_token_id=-1
    )
    return [int(token) for token in made[0, -count:]]
