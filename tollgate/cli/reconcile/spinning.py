"""What a reconciliation is at, on stderr, once it takes a while."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator

from tollgate.cli import output

AFTER_S = 2.0
"""What is faster needs no word."""


@contextlib.contextmanager
def spinner(doing: str) -> Iterator[None]:
    """Shows `doing` while the block runs, from its third second on; as one line where stderr is no terminal.

    Needs a running loop: the block awaits the database."""
    console = output.console(stderr=True)
    status = console.status(doing)
    show = status.start if console.is_terminal else lambda: output.note(f"{doing} ...")
    timer = asyncio.get_running_loop().call_later(AFTER_S, show)
    try:
        yield
    finally:
        timer.cancel()
        status.stop()
