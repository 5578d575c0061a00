"""A source to the gateway: as one file, with a bar, and again where the answer was lost."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from tollgate.cli import output
from tollgate.cli.client import Gateway, Json
from tollgate.cli.exits import GatewayUnreachableError, RefusedError

if TYPE_CHECKING:
    from tollgate.cli.batches.sources import Source

TRIES = 4
AGAIN_S = 2.0


def upload(gateway: Gateway, source: Source) -> Json:
    """The file as the gateway keeps it. A file that was sent twice is kept twice, and only the second is used.

    Raises BadFileError, before anything is sent where its first lines show it; RefusedError; GatewayUnreachableError.
    """
    left = TRIES if source.repeatable else 1
    while True:
        left -= 1
        chunks = source.chunks()
        first = next(chunks, b"")
        try:
            with _bar(source) as tell:
                sent = itertools.chain([first], _told(chunks, tell))
                return gateway.upload(sent, filename=source.name)
        except GatewayUnreachableError as error:
            if not left or not error.sent:
                raise
            output.note(f"{error}; sending {source.name} again")
        except RefusedError as error:
            if not left or error.status not in (429, 503):
                raise
        gateway.sleep(AGAIN_S)


def _told(chunks: Iterator[bytes], tell: Callable[[], None]) -> Iterator[bytes]:
    for chunk in chunks:
        yield chunk
        tell()


@contextlib.contextmanager
def _bar(source: Source) -> Iterator[Callable[[], None]]:
    """Only where stderr is a terminal."""
    console = output.console(stderr=True)
    if not console.is_terminal:
        yield lambda: None
        return
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    columns = (BarColumn(bar_width=24), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with Progress(TextColumn("uploading"), *columns, console=console, transient=True) as bar:
        task = bar.add_task("uploading", total=source.size)
        yield lambda: bar.update(task, completed=source.read)
