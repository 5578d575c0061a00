"""Where the original checkpoint lies: a folder, or a name on the Hugging Face hub."""

from __future__ import annotations

from pathlib import Path

from worker.upstreams.local import hub

OWNER = "zai-org"
PUBLISHED = frozenset(
    {
        "chatglm2-6b",
        "chatglm2-6b-32k",
        "chatglm2-6b-int4",
        "chatglm3-6b",
        "chatglm3-6b-32k",
        "chatglm3-6b-128k",
        "chatglm3-6b-base",
    }
)
"""Known without their owner."""
CODE = "tokenization_chatglm.py"
"""Read to tell the generation, never run."""


def find(model: str) -> Path:
    """The folder; of a name on the hub, what is missing is downloaded. Raises SettingsError."""
    if Path(model).expanduser().exists():
        return hub.folder_of(model, weights=False)
    name = f"{OWNER}/{model}" if model in PUBLISHED else model
    described = hub.folder_of(name, weights=False)
    safe = (described / "model.safetensors.index.json").exists()
    return hub.download(name, patterns=(*hub.DESCRIPTION, CODE, *(hub.WEIGHTS if safe else ("*.bin", *hub.WEIGHTS))))
