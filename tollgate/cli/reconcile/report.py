"""How a reconciliation is shown: a table of checks, a table of the bill, and the first differences of each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from tollgate.cli import output
from tollgate.cli.reconcile.asking import Answer, OfTheBill
from tollgate.domain.money import format_nano
from tollgate.store.reconcile.bill_settlements import Settled
from tollgate.store.reconcile.checks import Difference, Finding
from tollgate.store.reconcile.comparisons import Kind
from tollgate.store.reconcile.groups import Entry, Group

SAYS: Mapping[Kind, str] = {
    Kind.EQUAL: "billed as it is booked here",
    Kind.OTHER_COST: "billed with another cost than is booked here",
    Kind.SETTLES: "billed, uncertain here: the bill settles it",
    Kind.WITHOUT_COST: "billed, an attempt without a cost here",
    Kind.UNKNOWN: "billed, no such attempt here",
    Kind.OPEN: "billed, still open here: no difference yet",
    Kind.NOT_BILLED: "booked here, not billed",
    Kind.UNBILLED: "uncertain here, not in the bill, which is complete: not billed",
    Kind.UNSETTLED: "uncertain here, and the bill is not complete for its time",
}


def print_json(answer: Answer, *, currency: str) -> None:
    """One object; amounts of the bill as decimal strings, columns of the database as they stand there."""
    checks = [
        {
            "name": found.check.name,
            "says": found.check.says,
            "checked": found.checked,
            "differences": found.differences,
            "first": [asdict(one) for one in found.first],
        }
        for found in answer.findings
    ]
    bill = None if answer.bill is None else _bill(answer.bill, currency)
    output.json_line({"ok": answer.agrees, "checks": checks, "bill": bill})


def print_tables(answer: Answer, *, currency: str) -> None:
    """The tables, the first differences, and what it comes to in the last lines."""
    console = output.console()
    checks = output.table("check", ("differences", "right"), ("of", "right"), "what holds")
    for found in answer.findings:
        style = "bold red" if found.differences else None
        numbers = (output.count(found.differences), output.count(found.checked))
        checks.add_row(found.check.name, *numbers, found.check.says, style=style)
    console.print(checks)
    for line in _lines(answer.findings):
        console.print(output.printable(line))
    if answer.bill is not None:
        _print_bill(answer.bill, currency)
    console.print(_summary(answer))


def _lines(findings: Sequence[Finding]) -> Iterator[str]:
    for found in findings:
        if found.differences:
            yield f"{found.check.name}: {_how_many(found.differences, 'difference', shown=len(found.first))}"
            yield from (f"  {told(one)}" for one in found.first)


def told(difference: Difference) -> str:
    """ "hour 2026-03-01T12:00:00Z, model glm-4.7: attempts 3, should be 2"."""
    where = ", ".join(f"{name} {_value(value)}" for name, value in difference.where.items())
    found = []
    for name, value in difference.found.items():
        should = f", should be {_value(difference.expected[name])}" if name in difference.expected else ""
        found.append(f"{name} {_value(value)}{should}")
    return f"{where}: {'; '.join(found)}"


def _value(value: object) -> str:
    return "none" if value is None else repr(value) if value == "" else str(value)


def _how_many(number: int, noun: str, *, shown: int) -> str:
    return output.count(number, noun) + (f", the first {shown}:" if shown < number else ":")


def _print_bill(bill: OfTheBill, currency: str) -> None:
    console = output.console()
    whose = ", ".join(bill.comparison.upstreams) or "no upstream here"
    title = f"{bill.name}: {output.count(bill.loaded.charges, 'charge')} of {whose}, {_money(bill.loaded.cost_nano)}"
    made = output.table(
        "bill",
        ("attempts", "right"),
        ("billed", "right"),
        ("booked here", "right"),
        ("perhaps", "right"),
        title=f"{title} {currency}",
    )
    for kind, group in bill.comparison.groups.items():
        numbers = (group.billed_nano, group.booked_nano, group.possible_nano)
        style = "bold red" if kind.differs and group.count else None
        made.add_row(SAYS[kind], output.count(group.count), *(_money(nano) for nano in numbers), style=style)
    console.print(made)
    for line in _lines_of_bill(bill):
        console.print(output.printable(line))


def _lines_of_bill(bill: OfTheBill) -> Iterator[str]:
    if bill.loaded.bad:
        yield f"not read: {_how_many(bill.loaded.bad, 'line', shown=len(bill.loaded.first_bad))}"
        yield from (f"  line {one.number}: {one.reason}" for one in bill.loaded.first_bad)
    for kind, group in bill.comparison.groups.items():
        if group.first:
            yield f"{SAYS[kind]}: {_how_many(group.count, 'attempt', shown=len(group.first))}"
            yield from (f"  {_entry(one)}" for one in group.first)
    repeated = bill.comparison.repeated
    if repeated.count:
        yield f"billed more than once: {_how_many(repeated.count, 'attempt', shown=len(repeated.first))}"
        yield from (f"  {_entry(one)}, billed {one.times} times" for one in repeated.first)


def _entry(entry: Entry) -> str:
    amounts = {"billed": entry.billed_nano, "booked": entry.booked_nano, "perhaps": entry.possible_nano}
    told_amounts = [f"{name} {_money(nano)}" for name, nano in amounts.items() if nano is not None]
    started = [f"started {output.moment(entry.started_at)}"] if entry.started_at else []
    return f"{entry.request_id}: {', '.join([*told_amounts, *started])}"


def _money(nano: int) -> str:
    return output.money(format_nano(nano))


def _summary(answer: Answer) -> str:
    wrong = sum(1 for found in answer.findings if found.differences)
    checks = output.count(len(answer.findings), "check")
    parts = [f"{checks}: {'all equal' if not wrong else f'{wrong} with differences'}"]
    if answer.bill is not None:
        parts += [_settled(answer.bill.settled)] if answer.bill.settled is not None else []
        parts.append("the bill agrees" if answer.bill.agrees else "the bill differs")
    return "; ".join(parts)


def _settled(settled: Settled) -> str:
    billed = f"{output.count(settled.billed, 'attempt')} as billed ({_money(settled.cost_nano)})"
    left = f", {settled.left} had been settled meanwhile" if settled.left else ""
    return f"settled {billed} and {settled.unbilled} as not billed{left}"


def _bill(bill: OfTheBill, currency: str) -> dict[str, Any]:
    settled = bill.settled
    return {
        "file": bill.name,
        "currency": currency,
        "charges": bill.loaded.charges,
        "cost": format_nano(bill.loaded.cost_nano),
        "bad_lines": bill.loaded.bad,
        "first_bad_lines": [{"line": one.number, "reason": one.reason} for one in bill.loaded.first_bad],
        "upstreams": list(bill.comparison.upstreams),
        "groups": {str(kind): _group(group) for kind, group in bill.comparison.groups.items()},
        "billed_repeatedly": _group(bill.comparison.repeated),
        "settled": settled
        and {
            "billed": settled.billed,
            "cost": format_nano(settled.cost_nano),
            "unbilled": settled.unbilled,
            "settled_meanwhile": settled.left,
        },
        "ok": bill.agrees,
    }


def _group(group: Group) -> dict[str, Any]:
    amounts = {"billed": group.billed_nano, "booked": group.booked_nano, "possible": group.possible_nano}
    return {
        "count": group.count,
        **{name: format_nano(nano) for name, nano in amounts.items()},
        "first": [_entry_object(one) for one in group.first],
    }


def _entry_object(entry: Entry) -> dict[str, Any]:
    amounts = {"billed": entry.billed_nano, "booked": entry.booked_nano, "possible": entry.possible_nano}
    return {
        "request_id": entry.request_id,
        "task": None if entry.task_id is None else str(entry.task_id),
        "attempt": entry.number,
        "started_at": None if entry.started_at is None else entry.started_at.isoformat().replace("+00:00", "Z"),
        "times_billed": entry.times or 0,
        **{name: None if nano is None else format_nano(nano) for name, nano in amounts.items()},
    }
