"""Run by another interpreter, on transformers 4: `python run_original.py FOLDER ASKED ANSWERED`.

Loads the checkpoint in FOLDER with its own code, and writes to ANSWERED the logits of the tokens in ASKED. Each part is
in float32 only while it works, so that the memory is that of the checkpoint.
"""

from __future__ import annotations

import sys
from typing import Any

import torch


def widen(module: torch.nn.Module, _: Any) -> None:
    module.float()


def narrow(dtype: torch.dtype) -> Any:
    def hook(module: torch.nn.Module, *_: Any) -> None:
        module.to(dtype)

    return hook


def main(folder: str, asked: str, answered: str) -> None:
    from transformers import AutoModel

    question = torch.load(asked, weights_only=True)
    model: Any = AutoModel.from_pretrained(folder, trust_remote_code=True, torch_dtype="auto").eval()
    core = model.transformer
    core.rotary_pos_emb.inv_freq = core.rotary_pos_emb.inv_freq.float()
    core.embedding.register_forward_hook(lambda *passed: passed[-1].float())
    for part in (*core.encoder.layers, core.encoder.final_layernorm, core.output_layer):
        part.register_forward_pre_hook(widen)
        part.register_forward_hook(narrow(model.dtype))
    with torch.inference_mode():
        ids, positions = question["ids"][None], question["positions"][None]
        logits = model(input_ids=ids, position_ids=positions, use_cache=False).logits
    torch.save(logits[0].clone(), answered)


if __name__ == "__main__":
    main(*sys.argv[1:])
