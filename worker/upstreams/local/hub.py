"""Where a checkpoint lies: a folder as it is named, or in the hub's cache under a name like owner/model."""

from __future__ import annotations

import re
from pathlib import Path

from tollgate.domain.errors import SettingsError

_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
DESCRIPTION = ("*.json", "*.jinja", "tokenizer.model")
"""What says how a model is made and how it is spoken to: some megabytes."""
WEIGHTS = ("*.safetensors",)


def folder_of(model: str, *, weights: bool) -> Path:
    """The folder of a checkpoint; of a name on the hub, what is missing is downloaded, the weights only if asked for.

    HF_ENDPOINT, HF_HOME, HF_TOKEN and HF_HUB_OFFLINE count as everywhere. Raises SettingsError.
    """
    path = Path(model).expanduser()
    if path.is_dir():
        return path
    if path.exists():
        raise SettingsError(f"{model} is a file; a model is named by its folder, or by its name on the hub")
    if not _NAME.fullmatch(model):
        raise SettingsError(f"there is no folder {model}; a model is a folder, or a name on the hub (owner/name)")
    return download(model, patterns=(*DESCRIPTION, *WEIGHTS) if weights else DESCRIPTION)


def download(name: str, *, patterns: tuple[str, ...]) -> Path:
    """The folder of a name on the hub, with what matches `patterns`. Raises SettingsError."""
    try:
        import huggingface_hub
        from huggingface_hub.errors import RepositoryNotFoundError
    except ImportError as error:
        raise SettingsError(
            f"there is no folder {name}, and a name on the hub needs the extra local: pip install 'tollgate[local]'"
        ) from error
    try:
        return Path(huggingface_hub.snapshot_download(name, allow_patterns=list(patterns)))
    except RepositoryNotFoundError as error:
        raise SettingsError(
            f"there is neither a folder {name} nor, for this machine's token, a model of that name on the hub; "
            "check the name, and for a gated one set HF_TOKEN"
        ) from error
    except Exception as error:  # the hub's client raises its own errors, its HTTP client's and the system's
        raise SettingsError(
            f"there is no folder {name}, and the hub does not give it: {_first_line(error)}. Without a network, "
            f"download it elsewhere (hf download {name} --local-dir DIR), and name that folder"
        ) from error


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
