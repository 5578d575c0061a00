"""What is asked of the store: its checks, and a bill's comparison, at one moment; then what is applied."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from io import TextIOWrapper
from pathlib import Path
from typing import TextIO

import typer

from tollgate.cli import installation
from tollgate.cli.reconcile.spinning import spinner
from tollgate.domain import bill_file
from tollgate.domain.bill_file import BadLine, Charge
from tollgate.settings import Settings
from tollgate.store.database import Database, ReadConnection
from tollgate.store.reconcile import CHECKS, bill_settlements, bills, checks, comparisons, snapshots
from tollgate.store.reconcile.bill_settlements import SETTLED, Settled
from tollgate.store.reconcile.bills import Loaded
from tollgate.store.reconcile.checks import Finding
from tollgate.store.reconcile.comparisons import Comparison, Expected


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """The command line's options."""

    name: str
    """Of the bill."""
    charges: Iterator[Charge | BadLine] | None
    """None: there is no bill."""
    since: datetime | None
    until: datetime | None
    upstream: str | None
    apply: bool
    limit: int


@dataclass(frozen=True, slots=True, kw_only=True)
class OfTheBill:
    """What came of the bill; `settled` is None where nothing was to be applied."""

    name: str
    loaded: Loaded
    comparison: Comparison
    settled: Settled | None

    @property
    def agrees(self) -> bool:
        """What was settled is no difference any more. A line that could not be read may be one."""
        done = SETTLED if self.settled is not None else ()
        left = [kind for kind, group in self.comparison.groups.items() if kind.differs and group.count]
        return not self.loaded.bad and all(kind in done for kind in left)


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    findings: Sequence[Finding]
    bill: OfTheBill | None

    @property
    def agrees(self) -> bool:
        checked = not any(finding.differences for finding in self.findings)
        return checked and (self.bill is None or self.bill.agrees)


def open_bill(stack: contextlib.ExitStack, path: str) -> Iterator[Charge | BadLine]:
    """The charges of a file that `stack` closes. A file that is no bill is wrong usage."""
    try:
        return bill_file.read(stack.enter_context(_opened(path)), name="stdin" if path == "-" else path)
    except OSError as error:
        raise typer.BadParameter(f"{path}: {error.strerror or error}", param_hint="--bill") from None
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--bill") from None


@contextlib.contextmanager
def _opened(path: str) -> Iterator[TextIO]:
    # What is not UTF-8 can only stand in columns that nobody reads, or in a request_id that is not ours.
    if path != "-":
        with Path(path).open(encoding="utf-8", errors="replace", newline="") as file:
            yield file
        return
    wrapper = TextIOWrapper(sys.stdin.buffer, encoding="utf-8", errors="replace", newline="")
    try:
        yield wrapper
    finally:
        wrapper.detach()


async def ask(settings: Settings, question: Question) -> Answer:
    """Raises StoreUnavailableError, SettingsError."""
    # Two connections: the bill's tables are the one's own, and what is applied is written by the other.
    async with installation.store(settings, pool=2) as database, database.hold() as connection:
        if question.charges is None:
            async with snapshots.snapshot(connection):
                return Answer(findings=await _findings(connection, limit=question.limit), bill=None)
        async with bills.tables(connection):
            return await _with_bill(database, connection, question, question.charges)


async def _with_bill(
    database: Database, connection: ReadConnection, question: Question, charges: Iterator[Charge | BadLine]
) -> Answer:
    expected = Expected(since=question.since, until=question.until, upstream=question.upstream)
    with spinner("reading the bill"):
        loaded = await bills.load(connection, charges, limit=question.limit)
    async with snapshots.snapshot(connection):
        findings = await _findings(connection, limit=question.limit)
        with spinner("comparing the bill"):
            found = await comparisons.compare(connection, loaded, expected=expected, limit=question.limit)
    settled = None
    if question.apply:
        with spinner("settling by the bill"):
            settled = await bill_settlements.settle(database, connection, now=datetime.now(UTC))
    bill = OfTheBill(name=question.name, loaded=loaded, comparison=found, settled=settled)
    return Answer(findings=findings, bill=bill)


async def _findings(connection: ReadConnection, *, limit: int) -> list[Finding]:
    findings = []
    for check in CHECKS:
        with spinner(check.name):
            findings.append(await checks.find(connection, check, limit=limit))
    return findings
