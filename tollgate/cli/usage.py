"""`tollgate usage`: tasks, tokens and cost by any dimension."""

from __future__ import annotations

import sys
from decimal import Decimal
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tollgate.cli import exits, options, output

if TYPE_CHECKING:
    from rich.console import JustifyMethod
    from rich.table import Table

Json = dict[str, Any]

By = Annotated[
    str, typer.Option(metavar="A,B", help="hour, day, month, project, key, model, upstream, label; several by comma.")
]
Since = Annotated[str | None, typer.Option("--from", metavar="TIME", help="A date, or ISO 8601. Default: this month.")]
Until = Annotated[str | None, typer.Option("--to", metavar="TIME", help="Up to then, exclusive. Default: now.")]
Project = Annotated[str | None, typer.Option(metavar="NAME", help="Another project, or '*' for all; for admins.")]
OfKey = Annotated[str | None, typer.Option("--of-key", metavar="ID", help="Only what this API key asked for.")]
Csv = Annotated[bool, typer.Option("--csv", help="CSV on stdout.")]


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command(rich_help_panel="Accounts", epilog=exits.HELP)(usage)


def usage(
    by: By = "model",
    since: Since = None,
    until: Until = None,
    project: Project = None,
    of_key: OfKey = None,
    as_csv: Csv = False,
    as_json: options.AsJson = False,
    url: options.Url = None,
    key: options.Key = None,
    data: options.Data = None,
) -> None:
    """Tasks, tokens and cost, by the hour of each attempt's start (UTC).

    Examples:
      tollgate usage
      tollgate usage --by day,model --from 2026-01-01 --to 2026-02-01
      tollgate usage --project '*' --by project,label --csv > usage.csv
    """
    if as_csv and as_json:
        raise typer.BadParameter("give --csv or --json, not both")
    given = {"by": by, "from": since, "to": until, "project": project, "key": of_key}
    filters = {name: value for name, value in given.items() if value is not None}
    with options.gateway(url=url, key=key, data=data) as gateway:
        if as_csv:
            sys.stdout.write(gateway.usage_csv(filters))
            return
        answer = gateway.usage(filters)
    if as_json:
        output.json_line(answer)
        return
    show(answer)


def show(answer: Json) -> None:
    """The table with its total, and a note for each kind of cost that is not certain."""
    console = output.console()
    if not answer["data"]:
        console.print(f"nothing was used from {answer['from']} to {answer['to']}")
        return
    console.print(table(answer))
    for footnote in footnotes(answer["total"], answer["currency"]):
        console.print(footnote)


def table(answer: Json) -> Table:
    """A row a group, and the total. Where a local engine worked, its time too, and what a million tokens came to: by
    that it compares with the cloud."""
    compared = answer["total"]["engine_seconds"] > 0
    headings = ["tasks", "failed", "prompt", "cached", "completion"]
    headings += ["engine s"] if compared else []
    headings += [f"cost {answer['currency']}"]
    headings += ["per million"] if compared else []
    columns: list[tuple[str, JustifyMethod]] = [(heading, "right") for heading in headings]
    made = output.table(*answer["by"], *columns, title=f"{answer['from']} to {answer['to']}")
    for group in answer["data"]:
        names = (output.printable(str(group[name])) or "-" for name in answer["by"])
        made.add_row(*names, *_sums(group, compared=compared))
    made.add_section()
    total = _sums(answer["total"], compared=compared)
    made.add_row("total", *("" for _ in answer["by"][1:]), *total, style="bold")
    return made


def footnotes(total: Json, currency: str) -> list[str]:
    """What the sum leaves open; empty where it is exact."""
    notes = []
    if total["attempts_unpriced"]:
        notes.append(
            f"{output.count(total['attempts_unpriced'], 'attempt')} without a known price, counted as nothing: "
            "`tollgate models check` names the models, prices.toml takes their prices."
        )
    if total["attempts_estimated"]:
        notes.append(
            f"{output.count(total['attempts_estimated'], 'attempt')} with an estimated cost: "
            "the upstream did not tell their tokens, or only the total, or the engine's time is not known."
        )
    if total["attempts_uncertain"]:
        notes.append(
            f"{output.count(total['attempts_uncertain'], 'attempt')} without an answer, perhaps billed all the same: "
            f"up to {output.money(total['possible_cost'])} {currency} more."
        )
    return notes


def _sums(group: Json, *, compared: bool) -> list[str]:
    counts = (group[name] for name in ("tasks", "tasks_failed", "prompt_tokens", "cached_tokens", "completion_tokens"))
    sums = [*(output.count(number) for number in counts), output.money(group["cost"])]
    if not compared:
        return sums
    tokens = group["total_tokens"]
    per_million = Decimal(group["cost"]) * 1_000_000 / tokens if tokens else None
    return [*sums[:-1], f"{group['engine_seconds']:,.1f}", sums[-1], output.rough_money(per_million)]
