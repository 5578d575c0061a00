"""Safetensors files and their index, written tensor by tensor: one of them is in memory at a time.

The format: https://huggingface.co/docs/safetensors (eight bytes of length, a JSON header, the tensors' bytes).
`safetensors.torch.save_file` wants all tensors of a file at once, and copies them.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

FILE_BYTES = 2_000_000_000
"""Of one file, unless a single tensor has more."""
_CODES = {torch.float16: "F16", torch.bfloat16: "BF16", torch.float32: "F32"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Described:
    """A tensor that is yet to be made."""

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def size(self) -> int:
        """Bytes."""
        return math.prod(self.shape) * self.dtype.itemsize


def write(
    folder: Path,
    tensors: Sequence[Described],
    *,
    make: Callable[[int], torch.Tensor],
    told: Callable[[int], None],
    file_bytes: int = FILE_BYTES,
) -> None:
    """Write `tensors` into `folder`. `make(i)` gives the i-th; `told` hears of bytes as they are written.

    Raises OSError, and what `make` raises."""
    files = list(_divided(tensors, file_bytes))
    names = ["model.safetensors"] if len(files) == 1 else [_name(n, len(files)) for n in range(1, len(files) + 1)]
    for name, members in zip(names, files, strict=True):
        _write_file(folder / name, [tensors[i] for i in members], map(make, members), told)
    if len(files) > 1:
        places = {tensors[i].name: name for name, members in zip(names, files, strict=True) for i in members}
        index = {"metadata": {"total_size": sum(tensor.size for tensor in tensors)}, "weight_map": places}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def _write_file(
    path: Path, tensors: list[Described], made: Iterable[torch.Tensor], told: Callable[[int], None]
) -> None:
    with path.open("wb") as file:
        header = _header(tensors)
        file.write(len(header).to_bytes(8, "little") + header)
        for described, tensor in zip(tensors, made, strict=True):
            if (tuple(tensor.shape), tensor.dtype) != (described.shape, described.dtype):
                raise ValueError(
                    f"{described.name} is {tensor.dtype}{list(tensor.shape)}, and was described as {described}"
                )
            file.write(tensor.contiguous().view(-1).view(torch.uint8).numpy().data)
            told(described.size)
        file.flush()
        os.fsync(file.fileno())


def _header(tensors: list[Described]) -> bytes:
    entries: dict[str, object] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for tensor in tensors:
        entries[tensor.name] = {
            "dtype": _CODES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [offset, offset + tensor.size],
        }
        offset += tensor.size
    text = json.dumps(entries, separators=(",", ":")).encode()
    return text + b" " * (-len(text) % 8)


def _divided(tensors: Sequence[Described], file_bytes: int) -> Iterator[list[int]]:
    members: list[int] = []
    size = 0
    for i, tensor in enumerate(tensors):
        if members and size + tensor.size > file_bytes:
            yield members
            members, size = [], 0
        members.append(i)
        size += tensor.size
    yield members


def _name(number: int, count: int) -> str:
    return f"model-{number:05}-of-{count:05}.safetensors"
