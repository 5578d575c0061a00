"""`python -m tests.chaos.launch [--die-at STEP[:N]] [--freeze-at STEP[:N]] [--sqlite-max-pages N] -- worker ...`

The real command line, in a process that kills or stops itself at a named step (`steps`), or whose SQLite file cannot
grow.
"""

from __future__ import annotations

import argparse
import signal
import sqlite3
import sys
from collections.abc import Sequence
from typing import Any

from tests.chaos import steps
from tollgate import cli


def main(argv: Sequence[str]) -> int:
    """The command's exit code."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--die-at", metavar="STEP[:N]")
    parser.add_argument("--freeze-at", metavar="STEP[:N]")
    parser.add_argument("--sqlite-max-pages", type=int)
    parser.add_argument("command", nargs="+")
    given = parser.parse_args(argv)
    for at, with_signal in ((given.die_at, signal.SIGKILL), (given.freeze_at, signal.SIGSTOP)):
        if at:
            name, _, passing = at.partition(":")
            steps.strike_at(name, passing=int(passing or 1), with_signal=with_signal)
    if given.sqlite_max_pages:
        _limit_pages(given.sqlite_max_pages)
    return cli.main(given.command)


def _limit_pages(most: int) -> None:
    """Patched: SQLite itself then answers as on a full disk (SQLITE_FULL), and a real full disk needs root."""
    connect = sqlite3.connect

    def connect_limited(*args: Any, **options: Any) -> sqlite3.Connection:
        connection: sqlite3.Connection = connect(*args, **options)
        connection.execute(f"PRAGMA max_page_count={most}")
        return connection

    setattr(sqlite3, "connect", connect_limited)  # noqa: B010  # a plain assignment is no overload of the original


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
