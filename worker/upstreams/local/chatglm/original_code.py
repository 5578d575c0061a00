"""The checkpoint's own code, asked for its logits: by a process and an interpreter of its own, and only if told to.

It was written for transformers 4 and does not run on 5; docs/chatglm.md says how an environment for it is made.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
from pathlib import Path

import torch
from torch import Tensor

from worker.upstreams.local.chatglm.errors import OriginalError

SCRIPT = Path(__file__).with_name("run_original.py")


def logits(folder: Path, ids: Tensor, positions: Tensor, *, python: str) -> Tensor:
    """[tokens, vocabulary] in float32, by the code in `folder`, which `python` runs.

    Raises OriginalError where it does not run."""
    with tempfile.TemporaryDirectory() as scratch:
        asked, answered = Path(scratch, "asked.pt"), Path(scratch, "answered.pt")
        torch.save({"ids": ids, "positions": positions}, asked)
        command = [python, str(SCRIPT), str(folder), str(asked), str(answered)]
        # Its code is copied before it is imported; the copy goes with the rest.
        environment = {**os.environ, "HF_MODULES_CACHE": scratch, "HF_HUB_OFFLINE": "1"}
        try:
            done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)  # noqa: S603
        except OSError as error:
            raise OriginalError(f"{python} cannot be run: {error.strerror}") from error
        if done.returncode != 0 or not answered.exists():
            raise OriginalError(
                f"the checkpoint's own code does not run under {python}: {_last_line(done.stderr)}. It wants "
                "transformers 4: name the interpreter of such an environment by --python (docs/chatglm.md), or leave "
                "--trust-remote-code out"
            )
        found: Tensor = torch.load(answered, weights_only=True)
        return found


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or ["it says nothing"])[-1][:300]
