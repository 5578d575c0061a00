"""Cuts a list that a limit of its key can never take at once, so that it is taken piece by piece.

The client waits for room by itself (`cli.client`): a 429 that comes back asks for more than the whole limit. Nothing of
its list was accepted, so nothing is sent twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from tollgate.cli import output
from tollgate.cli.exits import RefusedError
from tollgate.cli.prompts import Line
from tollgate.domain.admission import BULK_OVER
from tollgate.domain.states import Priority

NEVER_FITS = 429


@dataclass(slots=True, kw_only=True)
class Fitting:
    """What one submit has found out of its key's limits; the same for all its lists."""

    longest: int | None = None
    """Tasks in one list; None: not limited, as far as is known."""
    told: set[str] = field(default_factory=set)

    def cut(self, lines: Sequence[Line]) -> list[list[Line]]:
        """`lines`, in their order, in lists of the longest length that fits."""
        size = self.longest or len(lines)
        if len(lines) > BULK_OVER >= size:
            lines = [_bulk(line) for line in lines]
        return [list(lines[start : start + size]) for start in range(0, len(lines), size)] if lines else []

    def part(self, group: list[Line], error: RefusedError) -> tuple[list[Line], list[list[Line]]]:
        """The lines that never fit, and the lists to try next. Raises `error` where shorter ones would not fit."""
        limit, value = error.details.get("limit"), error.details.get("limit_value")
        if limit == "max_in_flight" and isinstance(value, int) and 0 < value < len(group):
            self.longest = value
            self._tell(f"the limit of {output.count(value, 'task')} in flight takes lists of up to {value:,}")
            return [], self.cut(group)
        if limit != "tokens_per_minute":
            raise error
        if len(group) == 1:
            return group, []
        self._tell(f"the limit of {value:,} tokens per minute takes shorter lists")
        middle = len(group) // 2
        return [], [group[:middle], group[middle:]]

    def _tell(self, what: str) -> None:
        if what not in self.told:
            output.note(f"{what}: sending one after the other, each when there is room for it")
        self.told.add(what)


def _bulk(line: Line) -> Line:
    """Of a long list, which is bulk work; its pieces would be taken for interactive ones.

    Not with a request_id: a repeat must ask for the same, whatever the limits are by then."""
    task = line.task or {}
    if task.get("request_id") or task.get("priority"):
        return line
    return replace(line, task={**task, "priority": Priority.BULK})
