"""The files of a checkpoint's weights, as their headers and index tell them; no weight is read.

safetensors: 8 bytes of length, a JSON header of names, types, shapes and places, then the values
(https://github.com/huggingface/safetensors#format). The older pickles (`.bin`) tell nothing without being run.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

SINGLE = ("model.safetensors", "pytorch_model.bin")
"""Where transformers looks, in its order; each has an index beside it when it is in parts."""
_LONGEST_HEADER = 100_000_000
"""Bytes; the format's own limit."""
_POINTER = b"version https://git-lfs"
_LAYER = re.compile(r"\.layers\.(\d+)\.")


class Finding(NamedTuple):
    """What is wrong with a checkpoint, and what to do about it."""

    problem: str
    fix: str
    fatal: bool = True
    """It cannot be served like this."""


@dataclass(slots=True, kw_only=True)
class WeightFiles:
    """What there is on disk."""

    names: list[str] = field(default_factory=list)
    bytes: int = 0
    declared_bytes: int | None = None
    """What the index says that they have all together."""
    dtypes: Counter[str] = field(default_factory=Counter)
    """Numbers of each type, by safetensors' names ("BF16"); empty for pickles."""
    beyond: int = 0
    """Of those numbers, in layers after the model's last: extra heads for guessing tokens, which are not loaded."""
    findings: list[Finding] = field(default_factory=list)

    @property
    def numbers(self) -> int | None:
        """Those of the model itself; None where the files do not tell."""
        return sum(self.dtypes.values()) - self.beyond if self.dtypes else None

    @property
    def dtype(self) -> str | None:
        """The type of most of them."""
        return self.dtypes.most_common(1)[0][0] if self.dtypes else None


def read(folder: Path, *, layers: int | None) -> WeightFiles:
    """All weight files of a checkpoint whose model has so many layers (None: unknown). Never raises: see `findings`."""
    found = WeightFiles()
    try:
        found.names, found.declared_bytes = _names(folder)
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        found.findings.append(Finding(f"the index of the weights cannot be read: {error}", _again("the index")))
        return found
    if not found.names:
        found.findings.append(
            Finding(f"no weights ({' or '.join(SINGLE)}) in {folder}", "download the whole checkpoint")
        )
    missing = [name for name in found.names if not (folder / name).exists()]
    if missing:
        some = ", ".join(missing[:3]) + (", ..." if len(missing) > 3 else "")
        problem = f"{len(missing)} of {len(found.names)} weight files are missing: {some}"
        found.findings.append(Finding(problem, _again("them")))
    for name in found.names:
        if name not in missing:
            _add(found, folder / name, layers=layers)
    return found


def _names(folder: Path) -> tuple[list[str], int | None]:
    for single in SINGLE:
        if (folder / single).exists():
            return [single], None
        index = folder / f"{single}.index.json"
        if index.exists():
            told: Any = json.loads(index.read_text(encoding="utf-8"))
            size = told.get("metadata", {}).get("total_size")
            return sorted(set(told["weight_map"].values())), size if isinstance(size, int) else None
    return [], None


def _add(found: WeightFiles, path: Path, *, layers: int | None) -> None:
    try:
        size = path.stat().st_size
        found.bytes += size
        header = None if _is_pointer(path) or path.suffix != ".safetensors" else _header(path, size)
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        found.findings.append(Finding(f"{path.name} is damaged: {error}", _again(path.name)))
        return
    if _is_pointer(path):
        found.findings.append(Finding(f"{path.name} is a Git LFS pointer, not the weights", "run `git lfs pull` there"))
    elif header is not None:
        for name, dtype, numbers in _tensors(header):
            found.dtypes[dtype] += numbers
            layer = _LAYER.search(name)
            found.beyond += numbers if layer and layers is not None and int(layer[1]) >= layers else 0


def _is_pointer(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(len(_POINTER)) == _POINTER


def _header(path: Path, size: int) -> Mapping[str, Any]:
    """Of one safetensors file. Raises ValueError: not one, or cut off."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if not 2 <= length <= min(_LONGEST_HEADER, size - 8):
            raise ValueError("it has no safetensors header")
        header: Any = json.loads(file.read(length))
    ends = [tensor["data_offsets"][1] for name, tensor in header.items() if name != "__metadata__"]
    expected = 8 + length + max(ends, default=0)
    if size != expected:
        raise ValueError(f"it has {size:,} bytes where its header tells {expected:,}")
    return dict(header)


def _tensors(header: Mapping[str, Any]) -> Iterator[tuple[str, str, int]]:
    """Name, type and count of numbers. Tables that are computed anew at each load are left out."""
    for name, tensor in header.items():
        if name != "__metadata__" and not name.endswith("inv_freq"):
            yield name, tensor["dtype"], math.prod(tensor["shape"])


def _again(what: str) -> str:
    return f"download {what} again (`hf download NAME --local-dir DIR` goes on where it stopped)"
