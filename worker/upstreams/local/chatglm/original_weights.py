"""The original's weights, in whichever files they were published: read by name, mapped into memory, never all at once.

`.bin` files are pickles: they are read with `weights_only`, which refuses whatever is more than tensors.
"""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

import safetensors
import torch

from worker.upstreams.local.chatglm.errors import OriginalError

NAMES = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
"""In the order in which transformers looks for them: int4 checkpoints keep an index of what they were made from."""
POINTER = b"version https://git-lfs"
OPEN_FILES = 2
"""A matrix and its scale may stand in two."""


class Tensors(Protocol):
    """One open file."""

    def names(self) -> set[str]: ...

    def read(self, name: str) -> torch.Tensor: ...


class OriginalWeights:
    """A checkpoint's tensors. Raises OriginalError for what is missing or damaged, at the start where it shows."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._open: dict[str, Tensors] = {}
        name = next((name for name in NAMES if (folder / name).exists()), None)
        if name is None:
            raise OriginalError(f"{folder} has no weights: none of {', '.join(NAMES)}")
        self.source = name
        self._places = self._read_index(folder / name) if name.endswith(".json") else self._names_of(name)

    def __enter__(self) -> OriginalWeights:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.clear()

    def names(self) -> set[str]:
        return set(self._places)

    def read(self, name: str) -> torch.Tensor:
        """A tensor as it is stored; its bytes come from the disk as they are used."""
        place = self._places.get(name)
        if place is None:
            raise OriginalError(f"{self._folder / self.source} has no tensor {name}: the checkpoint is incomplete")
        file = self._file(place)
        if name not in file.names():
            raise OriginalError(f"{self._folder / place} has no tensor {name}, which the index says it has")
        return file.read(name)

    def _read_index(self, path: Path) -> dict[str, str]:
        _refuse_pointer(path)
        try:
            places = json.loads(path.read_text(encoding="utf-8"))["weight_map"]
            files = sorted(set(places.values()))
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise OriginalError(f"{path} is no index of weights: {error!r}") from error
        for file in files:
            if not (self._folder / file).is_file():
                raise OriginalError(f"{self._folder / file} is missing, which {path.name} names: download it again")
            _refuse_pointer(self._folder / file)
        return dict(places)

    def _names_of(self, file: str) -> dict[str, str]:
        _refuse_pointer(self._folder / file)
        return dict.fromkeys(self._file(file).names(), file)

    def _file(self, name: str) -> Tensors:
        if name not in self._open:
            while len(self._open) >= OPEN_FILES:
                del self._open[next(iter(self._open))]
            self._open[name] = _open(self._folder / name)
        return self._open[name]


class _Safetensors:
    def __init__(self, path: Path) -> None:
        self._file: Any = safetensors.safe_open(path, framework="pt")

    def names(self) -> set[str]:
        return set(self._file.keys())

    def read(self, name: str) -> torch.Tensor:
        tensor: torch.Tensor = self._file.get_tensor(name)
        return tensor


class _Pickled:
    def __init__(self, path: Path) -> None:
        loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=_can_be_mapped(path))
        if not isinstance(loaded, dict) or not all(isinstance(value, torch.Tensor) for value in loaded.values()):
            raise OriginalError(f"{path} holds something else than named tensors")
        self._tensors: dict[str, torch.Tensor] = loaded

    def names(self) -> set[str]:
        return set(self._tensors)

    def read(self, name: str) -> torch.Tensor:
        return self._tensors[name]


def _open(path: Path) -> Tensors:
    try:
        return _Safetensors(path) if path.suffix == ".safetensors" else _Pickled(path)
    except pickle.UnpicklingError as error:
        raise OriginalError(
            f"{path} holds more than tensors, or is damaged; code in it is never run. Take the safetensors files of "
            "the same checkpoint, or download it again"
        ) from error
    except OriginalError:
        raise
    except Exception as error:  # damaged bytes lead the unpickler anywhere
        reason = (str(error).splitlines() or [repr(error)])[0]
        raise OriginalError(f"{path} cannot be read: {reason}. It may be cut short: download it again") from error


def _can_be_mapped(path: Path) -> bool:
    """Files of torch before 1.6 are no zip archives; they are read whole, one at a time."""
    with path.open("rb") as file:
        return file.read(4) == b"PK\x03\x04"


def _refuse_pointer(path: Path) -> None:
    with path.open("rb") as file:
        if file.read(len(POINTER)) == POINTER:
            raise OriginalError(f"{path} is a pointer of Git LFS, not the file: run git lfs pull in {path.parent}")
