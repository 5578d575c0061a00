"""What a benchmark found: figures with their targets, as median and spread of several runs."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import rich.box
from rich.console import Console
from rich.table import Table


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One row of the table. `values`: one a run. Without a target it is there to be read beside the others."""

    name: str
    """ "S1", and what follows it where a benchmark has several."""
    what: str
    values: Sequence[float]
    unit: str = ""
    target: float | None = None
    sense: Literal[">=", "<="] = ">="

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    @property
    def met(self) -> bool:
        if self.target is None:
            return True
        return self.median >= self.target if self.sense == ">=" else self.median <= self.target


def ratio(name: str, what: str, ours: Sequence[float], theirs: Sequence[float], *, target: float) -> Figure:
    """Ours against theirs, pair by pair: what slows the machine slows both of a pair."""
    return Figure(
        name=name, what=what, values=[a / b for a, b in zip(ours, theirs, strict=True)], unit="x", target=target
    )


def show(figures: Sequence[Figure], *, console: Console) -> None:
    table = Table("", "what", "median", "spread", "target", box=rich.box.SIMPLE)
    for one in figures:
        spread = f"{_number(min(one.values))} .. {_number(max(one.values))}"
        target = "" if one.target is None else f"{one.sense} {_number(one.target)}{'' if one.met else '  missed'}"
        style = None if one.met else "bold red"
        table.add_row(one.name, one.what, f"{_number(one.median)} {one.unit}".rstrip(), spread, target, style=style)
    console.print(table)


def markdown(figures: Sequence[Figure]) -> str:
    """The rows for RESULTS.md."""
    lines = ["| | what | median | spread | target |", "|---|---|---|---|---|"]
    for one in figures:
        target = "" if one.target is None else f"{one.sense} {_number(one.target)}{'' if one.met else ' (missed)'}"
        spread = f"{_number(min(one.values))} to {_number(max(one.values))}"
        lines.append(f"| {one.name} | {one.what} | {_number(one.median)} {one.unit} | {spread} | {target} |")
    return "\n".join(lines)


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
