"""`tollgate ARGUMENTS` on a device that breaks: once, as soon as BREAK_FILE is there. Nothing else differs.

A GPU is not at hand, and none can be broken on demand: the model's own code raises what torch raises of one.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from tollgate.cli import main
from worker import restart
from worker.upstreams.local import loading

BREAK_FILE = Path(os.environ["BREAK_FILE"])
load_model = loading._model


def breakable(*arguments: Any) -> Any:
    model = load_model(*arguments)
    forward = model.forward

    def run(*given: Any, **named: Any) -> Any:
        if BREAK_FILE.exists():
            BREAK_FILE.unlink()
            raise RuntimeError("CUDA error: device-side assert triggered")
        return forward(*given, **named)

    model.forward = run
    return model


loading._model = breakable  # type: ignore[assignment]  # whatever its arguments are
restart.LEAST_S = 0.0
sys.exit(main())
