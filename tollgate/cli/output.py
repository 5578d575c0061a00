"""How things are printed: consoles, JSON lines, and text that came from elsewhere."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Sequence
from datetime import datetime
from decimal import Context, Decimal
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console, JustifyMethod
    from rich.table import Table
    from rich.text import Text

PIPED_WIDTH = 140
"""Columns of a table that goes to a file or a pipe, unless COLUMNS says otherwise."""
STATE_STYLES = {
    "succeeded": "green",
    "failed": "red",
    "cancelled": "yellow",
    "expired": "yellow",
    "running": "cyan",
    "queued": "dim",
    "validating": "cyan",
    "in_progress": "cyan",
    "completed": "green",
    "cancelling": "yellow",
}
# A model's answer may hold escape sequences, which a terminal would obey: title, clipboard, colours.
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def console(*, stderr: bool = False) -> Console:
    """A console on the present stdout or stderr. Text is printed as it is, markup only where it is asked for."""
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() or os.environ.get("COLUMNS") else PIPED_WIDTH
    return Console(file=stream, width=width, markup=False, highlight=False, emoji=False)


def note(message: str) -> None:
    """One line for the person, on stderr: stdout is for results."""
    print(printable(message), file=sys.stderr)


def json_line(value: Any) -> None:
    """One JSON document on one line of stdout."""
    sys.stdout.write(json.dumps(value, ensure_ascii=False, separators=(",", ":")) + "\n")


def table(*columns: str | tuple[str, JustifyMethod], title: str | None = None) -> Table:
    """An empty table; a column is its heading, or the heading and "right" for numbers."""
    import rich.box
    from rich.table import Table

    made = Table(box=rich.box.SIMPLE_HEAD, title=title, title_justify="left", pad_edge=False)
    for column in columns:
        heading: str
        justify: JustifyMethod
        heading, justify = (column, "left") if isinstance(column, str) else column
        # Numbers and ids keep together; words wrap.
        made.add_column(heading, justify=justify, no_wrap=justify == "right", overflow="fold")
    return made


def printable(text: str) -> str:
    """`text` without control characters, line breaks and tabs apart."""
    return _CONTROLS.sub("\N{REPLACEMENT CHARACTER}", text.replace("\r\n", "\n"))


def shortened(text: str, *, width: int = 60) -> str:
    """The beginning of `text` on one line."""
    line = " ".join(printable(text).split())
    return line if len(line) <= width else line[: width - 1] + "…"


def count(number: int, noun: str = "") -> str:
    """ "1,234", or with a noun "1 task", "1,234 tasks"."""
    return f"{number:,}" if not noun else f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def money(amount: str | Decimal | None) -> str:
    """A decimal amount with at least two digits after the point; "-" for none."""
    if amount is None:
        return "-"
    whole, _, fraction = f"{Decimal(amount):f}".partition(".")
    return f"{int(whole):,}.{fraction.rstrip('0').ljust(2, '0')}"


def rough_money(amount: str | Decimal | None) -> str:
    """To four digits: what is worth reading of a sum that grows or is estimated."""
    return money(None if amount is None else Context(prec=4).plus(Decimal(amount)))


def duration(seconds: float) -> str:
    """ "0.4 s", "45 s", "12 min 5 s", "3 h 20 min", "2 d 4 h"."""
    if seconds < 59.5:
        return f"{seconds:.1f} s" if seconds < 9.95 else f"{seconds:.0f} s"
    minutes, rest_s = divmod(round(seconds), 60)
    hours, rest_minutes = divmod(minutes, 60)
    if not hours:
        return f"{minutes} min {rest_s} s" if rest_s else f"{minutes} min"
    if hours < 24:
        return f"{hours} h {rest_minutes} min"
    return f"{hours // 24} d {hours % 24} h"


def moment(iso: str | datetime | None) -> str:
    """A time to the second, in UTC as it came."""
    if iso is None:
        return "-"
    parsed = iso if isinstance(iso, datetime) else datetime.fromisoformat(iso)
    return parsed.strftime("%Y-%m-%d %H:%M:%S")


def state(name: str) -> Text:
    """A state in its colour."""
    from rich.text import Text

    return Text(name, style=STATE_STYLES.get(name, ""))


def listed(names: Sequence[str], *, most: int = 5) -> str:
    """ "a, b, c and 9 more"."""
    rest = len(names) - most
    return ", ".join(names) if rest <= 0 else f"{', '.join(names[:most])} and {rest} more"
