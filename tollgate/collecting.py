"""Python's garbage collector, as a server wants it."""

from __future__ import annotations

import gc


def seldom() -> None:
    """Called once all is loaded. Gateway and worker make few cycles and hold many objects: by default the collector
    takes a tenth of a gateway's CPU, and a fifth of a worker's."""
    gc.freeze()
    gc.set_threshold(10_000, 20, 50)
