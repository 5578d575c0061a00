"""The progress bar of a waiting submit, and signs of life, on stderr."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from tollgate.cli import output
from tollgate.cli.waiting import Tally

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress


@contextlib.contextmanager
def shown(total: int, tally: Tally) -> Iterator[Callable[[], None]]:
    """A bar for `total` tasks while the block runs; call what it gives after each change of `tally`.

    Only where stderr is a terminal: a log needs no bar."""
    console = output.console(stderr=True)
    if not console.is_terminal or not total:
        yield lambda: None
        return
    bar = _bar(console)
    with bar:
        task = bar.add_task("waiting", total=total, about=about(tally))
        yield lambda: bar.update(task, completed=tally.ended, about=about(tally))


@contextlib.contextmanager
def working(on_what: str) -> Iterator[None]:
    """A sign of life while the block runs, where stderr is a terminal."""
    console = output.console(stderr=True)
    if console.is_terminal:
        with console.status(on_what):
            yield
    else:
        yield


def about(tally: Tally) -> str:
    """What stands beside the bar: failures, tokens, cost so far, and the rate."""
    rate = tally.ended / tally.elapsed_s if tally.elapsed_s > 0 else 0.0
    cost = f"{output.money(tally.cost)} {tally.currency}".rstrip()
    return f"{tally.failed:,} failed · {tally.tokens:,} tokens · {cost} · {rate:.1f}/s"


def _bar(console: Console) -> Progress:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn

    return Progress(
        SpinnerColumn(),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn("{task.fields[about]}", markup=False),
        TimeRemainingColumn(),
        console=console,
        transient=True,
    )
