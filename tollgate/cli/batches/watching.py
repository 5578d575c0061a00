"""A batch, watched to its end: a bar on a terminal, notes elsewhere."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator

from tollgate.cli import event_stream, output
from tollgate.cli.batches import shown
from tollgate.cli.client import Gateway, Json
from tollgate.cli.connection import segment

TRIES = 600
"""To take the events up again, a second or more apart: a batch lasts a night, and a gateway that restarts is no reason
to leave it."""
NOTED_EVERY_S = 60.0
"""Where there is no terminal, and so no bar."""
Seen = Callable[[Json], None]


def watch(gateway: Gateway, batch: Json, *, seen: Seen = lambda _: None) -> Json:
    """The batch as it ended; `seen` gets each progress before. Raises GatewayUnreachableError, RefusedError."""
    away = _Away(gateway)
    path = f"/batches/{segment(batch['id'])}/events"
    with _display(batch) as show:
        now = batch
        for name, now in event_stream.follow(gateway, path, what=f"batch {batch['id']}", tries=TRIES, on_cut=away.cut):
            away.back()
            show(now)
            if name != event_stream.END:
                seen(now)
    return now


class _Away:
    """Tells that the gateway is away once, whenever it is."""

    def __init__(self, gateway: Gateway) -> None:
        self._url = gateway.target.url
        self._told = False

    def cut(self) -> None:
        if not self._told:
            output.note(f"{self._url} does not answer; the batch goes on as soon as it is back, and so does this")
        self._told = True

    def back(self) -> None:
        self._told = False


@contextlib.contextmanager
def _display(batch: Json) -> Iterator[Seen]:
    console = output.console(stderr=True)
    if not console.is_terminal:
        yield _Notes().show
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn

    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn("{task.fields[pace]}", markup=False),
    )
    with Progress(*columns, console=console, transient=True) as bar:
        line = bar.add_task(shown.state(batch), total=batch["counts"]["total"], pace="")
        told = _Notes(every_s=None)

        def show(now: Json) -> None:
            told.show(now)
            bar.update(line, description=shown.state(now), completed=shown.done(now), pace=shown.pace(now))

        yield show


class _Notes:
    """What has to be said in words: a pause and its end, and without a bar how far it is."""

    def __init__(self, *, every_s: float | None = NOTED_EVERY_S) -> None:
        self._every_s = every_s
        self._last = time.monotonic()
        self._pause: str | None = None

    def show(self, batch: Json) -> None:
        why = shown.why_paused(batch)
        if why != self._pause and not shown.has_ended(batch):
            output.note(why or "it goes on")
        self._pause = why
        if self._every_s is not None and time.monotonic() - self._last >= self._every_s:
            self._last = time.monotonic()
            output.note(f"{shown.done(batch):,} of {batch['counts']['total']:,} lines · {shown.pace(batch)}")
