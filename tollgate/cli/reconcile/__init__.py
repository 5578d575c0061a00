"""`tollgate reconcile`: whether the books agree, and whether a provider's bill agrees with them. On the database."""

from __future__ import annotations

import contextlib
from datetime import datetime
from typing import Annotated

import typer

from tollgate.cli import exits, moments, options

BillFile = Annotated[
    str | None, typer.Option("--bill", metavar="FILE", help="The provider's bill, a CSV file; - for stdin.")
]
Since = Annotated[
    str | None, typer.Option("--from", metavar="TIME", help="The bill lists what started from then on (UTC).")
]
Until = Annotated[str | None, typer.Option("--to", metavar="TIME", help="And what started before then.")]
Upstream = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="The upstream whose bill it is. Default: those that it has charges of."),
]
Apply = Annotated[bool, typer.Option("--apply", help="Settle the uncertain attempts that the bill decides.")]
Limit = Annotated[int, typer.Option(min=1, max=100_000, metavar="N", help="How many differences of a kind to show.")]


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command(rich_help_panel="Accounts", epilog=exits.HELP)(reconcile)


def reconcile(
    bill: BillFile = None,
    since: Since = None,
    until: Until = None,
    upstream: Upstream = None,
    apply: Apply = False,
    limit: Limit = 20,
    as_json: options.AsJson = False,
    data: options.Data = None,
) -> None:
    """Recompute tasks, attempts, roll-up and budgets, and print every difference.

    Works on a live database: all is read at one moment, and nobody waits for
    it. Whole tables are read, which takes minutes for millions of tasks. Exit
    code 1 if anything differs.

    --bill needs the columns request_id and cost, in the installation's
    currency. --apply settles an uncertain attempt that the bill lists at what
    was billed. One that it does not list is settled as not billed, but only
    where the bill is complete: between --from and --to, or else between its
    own first and last charge (column created). Look without --apply first.

    Examples:
      tollgate reconcile
      tollgate reconcile --bill march.csv --from 2026-03-01 --to 2026-04-01
      tollgate reconcile --bill march.csv --from 2026-03-01 --to 2026-04-01 --apply --json
    """
    if bill is None and (apply or since or until or upstream):
        raise typer.BadParameter("--from, --to, --upstream and --apply are about a --bill", param_hint="--bill")
    started_from, started_before = _time(since, "--from"), _time(until, "--to")
    from tollgate.cli.reconcile import asking, report

    settings = options.settings(data)
    with contextlib.ExitStack() as stack:
        question = asking.Question(
            name=bill or "",
            charges=None if bill is None else asking.open_bill(stack, bill),
            since=started_from,
            until=started_before,
            upstream=upstream,
            apply=apply,
            limit=limit,
        )
        answer = options.run(asking.ask(settings, question))
    if as_json:
        report.print_json(answer, currency=settings.currency)
    else:
        report.print_tables(answer, currency=settings.currency)
    raise typer.Exit(exits.OK if answer.agrees else exits.FAILED)


def _time(text: str | None, option: str) -> datetime | None:
    if text is None:
        return None
    try:
        return moments.parse_time(text)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint=option) from None
