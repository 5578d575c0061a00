"""What the doctor found, and how it is shown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Literal

from tollgate.cli import output

State = Literal["ok", "warn", "fail"]
STYLES = {"ok": "green", "warn": "yellow", "fail": "bold red"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One thing looked at. `fix` says what to do; empty where all is well."""

    name: str
    state: State
    found: str
    fix: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShownSetting:
    """A setting, its value fit to be shown, and where that came from."""

    variable: str
    value: str
    source: str


@dataclass(slots=True, kw_only=True)
class Report:
    settings: Sequence[ShownSetting] = ()
    checks: list[Check] = field(default_factory=list)

    @property
    def failed(self) -> bool:
        return any(check.state == "fail" for check in self.checks)


def ok(name: str, found: str) -> Check:
    return Check(name=name, state="ok", found=found)


def warn(name: str, found: str, *, fix: str) -> Check:
    return Check(name=name, state="warn", found=found, fix=fix)


def fail(name: str, found: str, *, fix: str = "") -> Check:
    return Check(name=name, state="fail", found=found, fix=fix)


def print_json(report: Report) -> None:
    output.json_line(
        {
            "ok": not report.failed,
            "settings": [asdict(one) for one in report.settings],
            "checks": [asdict(check) for check in report.checks],
        }
    )


def print_tables(report: Report) -> None:
    """The settings, the checks, and one line at the end."""
    from rich.text import Text

    console = output.console()
    settings = output.table("setting", "value", "from")
    for one in report.settings:
        settings.add_row(one.variable, output.printable(one.value), one.source)
    if report.settings:
        console.print(settings)
    checks = output.table("check", "state", "found", "what to do")
    for check in report.checks:
        state = Text(check.state, style=STYLES[check.state])
        checks.add_row(check.name, state, output.printable(check.found), output.printable(check.fix))
    console.print(checks)
    console.print(summary(report))


def summary(report: Report) -> str:
    """ "12 ok, 1 warning, 0 failed"."""
    counted = {state: sum(check.state == state for check in report.checks) for state in STYLES}
    warnings = "warning" if counted["warn"] == 1 else "warnings"
    return f"{counted['ok']} ok, {counted['warn']} {warnings}, {counted['fail']} failed"
