"""Python's garbage collector, as a server wants it."""

from __future__ import annotations

import gc

YOUNG_OBJECTS = 100_000
"""More than a thousand calls in flight hold: it comes when what is left in cycles has piled up, not because there are
many calls. With 10,000 it took 8 % of a worker's CPU."""


def seldom() -> None:
    """Called once all is loaded. Gateway and worker hold many objects, and make few cycles: by default the collector
    takes a tenth of a gateway's CPU, and a fifth of a worker's.

    None of those cycles has a prompt or an answer in it. An error that is raised keeps the frames it passed, and a
    frame that keeps such an error lets go of it before it ends."""
    gc.freeze()
    gc.set_threshold(YOUNG_OBJECTS, 20, 50)
