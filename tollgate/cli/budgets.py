"""`tollgate budgets`: what a project or a key may use, on the database."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Annotated
from uuid import UUID

import typer

from tollgate.cli import installation, options, output

if TYPE_CHECKING:
    from tollgate.domain.budgets import Period
    from tollgate.settings import Settings
    from tollgate.store.budgets import Balance

Project = Annotated[str, typer.Option(help="Whose budget it is.")]
OfKey = Annotated[str | None, typer.Option("--key", metavar="ID", help="One key of the project. Default: all of it.")]
PeriodName = Annotated[
    str, typer.Option("--period", metavar="day|month|total|in_flight", help="Days and months are UTC.")
]
Cost = Annotated[str | None, typer.Option(metavar="AMOUNT", help="At most so much money. Default: not limited.")]
Tokens = Annotated[int | None, typer.Option(metavar="N", min=0, help="At most so many tokens. Default: not limited.")]
Tasks = Annotated[
    int | None, typer.Option(metavar="N", min=0, help="With period in_flight: at most so many open tasks.")
]

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="rich",
    help="Budgets: what a project or a key may use in a day, a month or in all, or have open at once. Each task "
    "reserves the most that it can come to when it is accepted, and is refused where that does not fit; when it ends, "
    "what it cost counts instead. These commands work on the database: TOLLGATE_DATABASE_URL, else the data folder's "
    "SQLite file.",
)


def register(root: typer.Typer) -> None:
    """Add the family to `root`."""
    root.add_typer(app, name="budgets", rich_help_panel="Administration")


@app.command("set")
def set_budget(
    project: Project,
    period: PeriodName,
    key: OfKey = None,
    cost: Cost = None,
    tokens: Tokens = None,
    tasks: Tasks = None,
    data: options.Data = None,
) -> None:
    """Limit what each period may use, in money, tokens or both, or how many tasks are open at once; or change a limit.

    What counts in a new budget is what is submitted from then on. A limit that is left out is none.

    Examples:
      tollgate budgets set --project search --period month --cost 100
      tollgate budgets set --project search --key 0199c2f06a4e7c31a0b752ab3e1f4d10 --period day --tokens 2000000
      tollgate budgets set --project search --period in_flight --tasks 500
    """
    chosen, limit_nano = _period(period), _nano(cost)
    used = cost is not None or tokens is not None
    if (tasks is not None) != (chosen == "in_flight") or (tasks is not None and used):
        raise typer.BadParameter("--period in_flight and --tasks belong together, with nothing beside")
    if tasks is None and not used:
        raise typer.BadParameter("give --cost or --tokens, or both")
    _require_countable(tokens, tasks)
    # Whoever has only the whole key at hand may paste it: the secret is not needed, and not printed again.
    key_id = None if key is None else key.partition(".")[0]
    settings = options.settings(data)
    one = options.run(
        _set(
            settings,
            project=project,
            key_id=key_id,
            period=chosen,
            limit_nano=limit_nano,
            limit_tokens=tokens,
            limit_tasks=tasks,
        )
    )
    limits = " and ".join(f"{limit} {unit}" for unit, limit, *_ in _amounts(one, settings.currency))
    print(f"budget {one.budget.id}: {_whose(one)} may use {limits} {_every(chosen)}")


@app.command("list")
def list_budgets(
    project: Annotated[str | None, typer.Option(help="Only this project's.")] = None,
    as_json: options.AsJson = False,
    data: options.Data = None,
) -> None:
    """List the budgets, each with what stands in its present period.

    Examples:
      tollgate budgets list
      tollgate budgets list --project search --json
    """
    settings, now = options.settings(data), datetime.now(UTC)
    found = options.run(_list(settings, project, now=now))
    if as_json:
        from gateway.dialects.native import render

        output.json_line([render.budget(one, currency=settings.currency, today=now.date()) for one in found])
        return
    numbers = ("limit", "spent", "reserved", "uncertain", "left")
    table = output.table("id", "whose", "period", "in", *((name, "right") for name in numbers), "resets (UTC)")
    table.columns[0].no_wrap = True  # to be copied into `budgets remove`
    for one in found:
        resets_on = one.budget.period.resets_on(now.date())
        head = [str(one.budget.id), output.printable(_whose(one)), one.budget.period]
        for row in _amounts(one, settings.currency):
            table.add_row(*head, *row, "never" if resets_on is None else resets_on.isoformat())
            head = ["", "", ""]
    output.console().print(table)


@app.command()
def remove(
    budget_id: Annotated[str, typer.Argument(metavar="ID", help="As `tollgate budgets list` shows it.")],
    data: options.Data = None,
) -> None:
    """Remove a budget, with what stands in it: it limits nothing from then on.

    Examples:
      tollgate budgets remove 01a20464-51f8-709a-b8cb-cc506b33e5ae
    """
    from tollgate.domain.errors import NotFoundError
    from tollgate.domain.ids import parse_id

    parsed = parse_id(budget_id)
    if parsed is None:
        raise NotFoundError("budget", budget_id)
    options.run(_remove(options.settings(data), parsed))
    print(f"budget {parsed} is removed")


async def _set(
    settings: Settings,
    *,
    project: str,
    key_id: str | None,
    period: Period,
    limit_nano: int | None,
    limit_tokens: int | None,
    limit_tasks: int | None,
) -> Balance:
    from tollgate.domain.budgets import Budget
    from tollgate.domain.ids import new_id
    from tollgate.store import budgets, keys

    now = datetime.now(UTC)
    async with installation.store(settings) as database, database.write() as connection:
        wanted = Budget(
            id=new_id(),
            project_id=(await keys.project_named(connection, project)).id,
            key_id=key_id,
            period=period,
            limit_nano=limit_nano,
            limit_tokens=limit_tokens,
            limit_tasks=limit_tasks,
        )
        return await budgets.balance(connection, (await budgets.put(connection, wanted, now=now)).id, now=now)


async def _list(settings: Settings, project: str | None, *, now: datetime) -> list[Balance]:
    from tollgate.store import budgets, keys

    async with installation.store(settings) as database, database.read() as connection:
        project_id = None if project is None else (await keys.project_named(connection, project)).id
        return list(await budgets.balances(connection, now=now, project_id=project_id))


async def _remove(settings: Settings, budget_id: UUID) -> None:
    from tollgate.store import budgets

    async with installation.store(settings) as database, database.write() as connection:
        await budgets.remove(connection, budget_id)


def _amounts(one: Balance, currency: str) -> Iterator[tuple[str, ...]]:
    """A row for each limit: its unit, the limit, spent, reserved, uncertain, left."""
    from tollgate.domain.budgets import remaining
    from tollgate.domain.money import format_nano

    budget, stands, left = one.budget, one.stands, remaining(one.budget, one.stands)
    if budget.limit_nano is not None:
        costs = (budget.limit_nano, stands.spent_nano, stands.reserved_nano, stands.uncertain_nano)
        yield currency, *(output.money(amount) for amount in (*map(format_nano, costs), str(left["cost"])))
    if budget.limit_tokens is not None:
        counts = (budget.limit_tokens, stands.spent_tokens, stands.reserved_tokens, stands.uncertain_tokens)
        yield "tokens", *(output.count(number) for number in (*counts, int(left["tokens"])))
    if budget.limit_tasks is not None:
        open_tasks = output.count(stands.reserved_tasks)
        yield "tasks", output.count(budget.limit_tasks), "-", open_tasks, "-", output.count(int(left["tasks"]))


def _whose(one: Balance) -> str:
    return one.project if one.budget.key_id is None else f"{one.project}, key {one.budget.key_id}"


def _every(period: Period) -> str:
    return {"day": "a day", "month": "a month", "total": "in total", "in_flight": "at once"}[period]


def _period(text: str) -> Period:
    from tollgate.domain.budgets import Period

    try:
        return Period(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r}: write day, month, total or in_flight", param_hint="--period") from None


def _nano(text: str | None) -> int | None:
    from tollgate.domain.budgets import COST_PATTERN
    from tollgate.domain.money import to_nano

    if text is None:
        return None
    if not re.fullmatch(COST_PATTERN, text):
        raise typer.BadParameter(f"{text!r}: write an amount below 1000000000, such as 12.50", param_hint="--cost")
    return to_nano(Decimal(text))


def _require_countable(tokens: int | None, tasks: int | None) -> None:
    from tollgate.domain.budgets import MAX_LIMIT_TASKS, MAX_LIMIT_TOKENS

    for option, given, most in (("--tokens", tokens, MAX_LIMIT_TOKENS), ("--tasks", tasks, MAX_LIMIT_TASKS)):
        if given is not None and given > most:
            raise typer.BadParameter(f"at most {most}", param_hint=option)
