"""The SDKs that cannot live beside zhipuai 2.x, each in an environment of its own that `make test` makes.

NAME.txt says what is installed there; the script of that name runs there, and knows nothing of this project."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.conftest import absent

HERE = Path(__file__).parent
ENVIRONMENTS = Path(os.environ.get("TOLLGATE_TEST_SDKS", str(Path(sys.prefix) / "sdks")))


def drive(name: str, **asked: Any) -> Any:
    """What the script of that SDK prints."""
    python = ENVIRONMENTS / name / "bin" / "python"
    if not python.exists():
        absent(f"the environment of {name}", FileNotFoundError(f"{python}: run `make test`, which makes it"))
    # Not by `-m`, nor from here: this project's own packages stay out of its sight.
    command = [str(python), "-I", str(HERE / f"{name.replace('-', '_')}.py")]
    done = subprocess.run(command, input=json.dumps(asked), capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)
