"""A ChatGLM2 or 3 checkpoint into a native one: tokenizer, weights, configuration, each compared before it counts."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, GlmConfig

from worker.upstreams.local.chatglm import (
    architecture,
    destination,
    layout,
    logits_check,
    original_code,
    quantized,
    safetensors_writer,
    tokenizer,
    tokenizer_check,
)
from worker.upstreams.local.chatglm.architecture import Architecture
from worker.upstreams.local.chatglm.errors import OriginalError
from worker.upstreams.local.chatglm.logits_check import Agreement
from worker.upstreams.local.chatglm.original_weights import OriginalWeights
from worker.upstreams.local.chatglm.safetensors_writer import Described

SAMPLING = {"do_sample": True, "temperature": 0.8, "top_p": 0.8}
"""What `chat` of the original does unasked."""
Told = Callable[[str, int, int], None]
"""What is being done, how much of it is, and how much there is: texts, bytes or layers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Converted:
    """What was made, and what it was compared on."""

    folder: Path
    generation: int
    bytes: int
    unpacked_bits: int
    """Of the weights that were packed; 0: none were."""
    texts: int
    agreement: Agreement


def convert(
    original: Path,
    folder: Path,
    *,
    generation: int | None = None,
    trusted_python: str | None = None,
    told: Told = lambda *_: None,
) -> Converted:
    """Write the native checkpoint of `original` into `folder`, which must not exist or be empty.

    `generation`: 2 or 3; None: as the checkpoint's files say. `trusted_python`: an interpreter that runs the code in
    `original`; None: that is never run. Raises ConversionError, and leaves nothing behind."""
    config = read_config(original)
    architecture.refuse_other_models(config)
    generation = generation or find_generation(original, config)
    model = architecture.read(config, generation=generation)
    with destination.partial(folder) as written, OriginalWeights(original) as weights, destination.written_to(folder):
        texts, ends = _tokenizer(original, written, model, generation=generation, told=told)
        made = Conversion(model, weights)
        answered = _asked(original, model, python=trusted_python, told=told)
        size = made.size
        destination.require_room(written, size=size)
        made.write(written, told=told)
        _configure(written, model, made, ends=ends)
        agreement = made.check(written, answered=answered, told=told)
    return Converted(
        folder=folder, generation=generation, bytes=size, unpacked_bits=model.bits, texts=texts, agreement=agreement
    )


def read_config(folder: Path) -> dict[str, Any]:
    """Raises OriginalError."""
    path = folder / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise OriginalError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}") from error
    if not isinstance(config, dict):
        raise OriginalError(f"{path} is no JSON object")
    return config


def find_generation(folder: Path, config: dict[str, Any]) -> int:
    """2 or 3, by the tokenizer's code, which is read and never run, else by the name in config.json.

    Their tensors and files are alike; prompts, and what a stretched context means, are not."""
    code = folder / "tokenization_chatglm.py"
    if code.is_file():
        return 3 if "<|observation|>" in code.read_text(encoding="utf-8", errors="replace") else 2
    name = f"{config.get('_name_or_path', '')} {folder.name}".lower()
    found = [generation for generation in (2, 3) if f"chatglm{generation}" in name]
    if len(found) == 1:
        return found[0]
    raise OriginalError(
        f"{folder} does not say whether it is ChatGLM2 or ChatGLM3 (there is no tokenization_chatglm.py): "
        "say --generation 2 or --generation 3"
    )


class Conversion:
    """The weights. Raises OriginalError at once where a tensor is missing, unknown or of another shape."""

    def __init__(self, model: Architecture, weights: OriginalWeights) -> None:
        self._model = model
        self._weights = weights
        self.tied = layout.HEAD not in weights.names()
        self._sources = layout.sources(model, tied=self.tied)
        self._refuse_unknown()
        self._described = [self._describe(source) for source in self._sources]

    @property
    def size(self) -> int:
        """Bytes of the converted weights."""
        return sum(described.size for described in self._described)

    @property
    def dtype(self) -> str:
        """As config.json says it."""
        return str(self._described[0].dtype).removeprefix("torch.")

    def write(self, folder: Path, *, told: Told) -> None:
        done = 0

        def advance(size: int) -> None:
            nonlocal done
            done += size
            told("weights", done, self.size)

        safetensors_writer.write(folder, self._described, make=self._make, told=advance)

    def check(self, folder: Path, *, answered: Tensor | None, told: Told) -> Agreement:
        done = 0

        def advance(layers: int) -> None:
            nonlocal done
            done += layers
            told("comparing", done, self._model.layers)

        return logits_check.check(folder, self._model, read=self._read, tied=self.tied, answered=answered, told=advance)

    def _read(self, name: str) -> Tensor:
        """The original's tensor, unpacked."""
        tensor = self._weights.read(name)
        if tensor.dtype is not torch.int8:
            return tensor
        return quantized.unpack(tensor, self._weights.read(f"{name}_scale"), bits=self._model.bits)

    def _make(self, i: int) -> Tensor:
        source = self._sources[i]
        tensor = layout.cut(self._model, self._read(source.original), source.part)
        least, most = torch.aminmax(tensor)  # forty times faster than isfinite on a CPU, and no number passes either
        if not (least.isfinite() and most.isfinite()):
            raise OriginalError(f"{source.original} has values that are no numbers: the checkpoint is damaged")
        return tensor

    def _describe(self, source: layout.Source) -> Described:
        stored = self._weights.read(source.original)
        shape, dtype = tuple(stored.shape), stored.dtype
        if dtype is torch.int8 and self._model.bits:
            shape = (shape[0], shape[1] * 8 // self._model.bits)
            dtype = self._weights.read(f"{source.original}_scale").dtype
        if shape != source.whole_shape:
            raise OriginalError(
                f"{source.original} has the shape {list(shape)}, and by config.json it should be "
                f"{list(source.whole_shape)}: the files do not belong together"
            )
        if not dtype.is_floating_point:
            raise OriginalError(f"{source.original} is {dtype}, and config.json says nothing of quantised weights")
        return Described(name=source.name, shape=layout.rows(self._model, source), dtype=dtype)

    def _refuse_unknown(self) -> None:
        known = {source.original for source in self._sources}
        known |= {f"{name}_scale" for name in known} if self._model.bits else set()
        unknown = sorted(name for name in self._weights.names() - known if not name.endswith(layout.UNUSED))
        if unknown:
            raise OriginalError(
                f"{self._weights.source} has {len(unknown)} tensors that ChatGLM2 and 3 have not ({unknown[0]}, ...): "
                "an adapter is merged into its model before it is converted"
            )


def _tokenizer(
    original: Path, written: Path, model: Architecture, *, generation: int, told: Told
) -> tuple[int, list[int]]:
    """Write and compare it. Returns how many texts agree, and the ids that end an answer."""
    told("tokenizer", 0, 1)
    found = tokenizer.read(original)
    ends = tokenizer.ends(found, generation=generation)
    count = len(found.pieces) + len(tokenizer.SPECIAL[generation])
    if count > model.vocabulary:
        raise OriginalError(f"{tokenizer.FILE} makes {count} tokens, and the model knows {model.vocabulary}")
    made = tokenizer.convert(found, generation=generation, context_tokens=model.context_tokens)
    made.save_pretrained(written)
    texts = tokenizer_check.check(written, original, found, generation=generation)
    told("tokenizer", 1, 1)
    return texts, ends


def _asked(original: Path, model: Architecture, *, python: str | None, told: Told) -> Tensor | None:
    """The logits of the checkpoint's own code, where it may be run."""
    if python is None:
        return None
    told("own code", 0, 1)
    ids, positions = logits_check.sample(model)
    found = original_code.logits(original, ids, positions, python=python)
    told("own code", 1, 1)
    return found


def _configure(written: Path, model: Architecture, made: Conversion, *, ends: list[int]) -> None:
    fields = architecture.native(model, tied=made.tied, ends=ends, pad=ends[0], dtype=made.dtype)
    GlmConfig(**fields).save_pretrained(written)
    sampling = GenerationConfig(eos_token_id=ends, pad_token_id=ends[0], **SAMPLING)
    sampling.save_pretrained(written)
