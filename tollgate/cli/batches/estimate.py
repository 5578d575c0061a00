"""`tollgate batch estimate`: what a file would use, cost and take, before anything of it is bought."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tollgate.cli import exits, options, output
from tollgate.cli.batches import terms
from tollgate.cli.connection import segment

if TYPE_CHECKING:
    from rich.table import Table

    from tollgate.cli.client import Gateway

Json = dict[str, Any]
ESTIMATE_S = 1_800.0
"""Every line is read and checked: a million takes a minute or two."""
MaxCost = Annotated[str | None, typer.Option(metavar="AMOUNT", help="Say whether it would be enough: 12.50.")]


def register(app: typer.Typer) -> None:
    """Add the command to the family."""
    app.command(epilog=exits.HELP)(estimate)


def estimate(
    *,
    file: terms.File,
    template: terms.Template = None,
    id_column: terms.IdColumn = None,
    model: terms.Model = terms.DEFAULT_MODEL,
    system: terms.System = None,
    max_tokens: terms.MaxTokens = None,
    temperature: terms.Temperature = None,
    param: terms.Param = None,
    max_cost: MaxCost = None,
    via: terms.Via = "direct",
    as_json: options.AsJson = False,
    url: options.Url = None,
    key: options.Key = None,
    data: options.Data = None,
) -> None:
    """Say what a file would use, cost and take, and which of its lines are invalid. Nothing is bought or kept.

    Each figure is a spread: low, likely, high; under the tables stands what
    they take for granted. The exit code is 1 where lines are invalid, or where
    the likely cost is over --max-cost.

    Examples:
      tollgate batch estimate prompts.jsonl
      tollgate batch estimate reviews.csv --template "Classify: {text}" --model glm-4-air --max-tokens 20
      tollgate batch estimate prompts.jsonl --max-cost 50 && tollgate batch run prompts.jsonl --max-cost 50
    """
    from tollgate.cli.batches import uploading
    from tollgate.cli.batches.sources import Columns, Source

    source = Source(file, columns=Columns(template=template, id_column=id_column))
    asked = terms.of_lines(
        model=model, system=system, temperature=temperature, max_tokens=max_tokens, param=param, via=via
    )
    if max_cost is not None:
        asked["max_cost"] = max_cost
    with options.gateway(url=url, key=key, data=data) as gateway:
        uploaded = uploading.upload(gateway, source)
        try:
            found = ask(gateway, {**asked, "input_file_id": uploaded["id"]})
        finally:
            with contextlib.suppress(exits.RefusedError, exits.GatewayUnreachableError):  # it expires in any case
                gateway.ask("DELETE", f"/files/{segment(uploaded['id'])}")
    if as_json:
        output.json_line(found)
    else:
        show(found)
    too_dear = found["fits_max_cost"] is not None and not found["fits_max_cost"]["likely"]
    raise typer.Exit(exits.FAILED if found["invalid"] or too_dear else exits.OK)


def ask(gateway: Gateway, asked: Json) -> Json:
    """POST /batches/estimate. Raises RefusedError, GatewayUnreachableError."""
    from tollgate.cli import progress

    with progress.working("estimating"):
        return gateway.ask("POST", "/batches/estimate", body=asked, timeout_s=ESTIMATE_S)


def line(found: Json) -> str:
    """All of it in one."""
    way = found["total"]["via"][found["via"]]
    invalid = f", {found['invalid']:,} of them invalid" if found["invalid"] else ""
    text = f"estimate: {output.count(found['lines'], 'line')}{invalid}; "
    if way["cost"] is None:
        text += f"the cost is not known: {way['why_no_cost']}"
    else:
        cost = {name: output.rough_money(amount) for name, amount in way["cost"].items()}
        text += f"likely {cost['likely']} {found['currency']} ({cost['low']} to {cost['high']})"
    return text + ("" if way["seconds"] is None else f", about {output.duration(way['seconds'])}")


def show(found: Json) -> None:
    """Tables and sentences."""
    console = output.console()
    models = found["models"]
    if models:
        console.print(_tokens_table(found))
        console.print(_ways_table(found))
    for one in found["invalid_lines"]:
        named = f" ({one['custom_id']})" if one["custom_id"] else ""
        output.note(f"line {one['line']}{named}: {one['message']}")
    if (hidden := found["invalid"] - len(found["invalid_lines"])) > 0:
        output.note(f"and {hidden:,} more invalid lines")
    print(line(found))
    for sentence in (*_limits(found), *_unknown(found)):
        print(sentence)
    if models:
        print("\nTaken for granted:")
        for model in models:
            _print_assumptions(model["assumptions"], of=model["model"])
        _print_assumptions(found["assumptions"], of=None)


def _print_assumptions(sentences: Sequence[str], *, of: str | None) -> None:
    for sentence in sentences:
        print(f"- {of}: {sentence}" if of else f"- {sentence}")


def _tokens_table(found: Json) -> Table:
    figures = [(name, "right") for name in ("lines", "prompt tokens", "output low", "likely", "high")]
    table = output.table("model", "route", *figures)  # type: ignore[arg-type]
    for one in found["models"]:
        table.add_row(one["model"], one["route"], *_tokens(one))
    if len(found["models"]) > 1:
        table.add_row()
        table.add_row("total", "", *_tokens(found["total"]))
    return table


def _tokens(one: Json) -> list[str]:
    completion = one["completion_tokens"]
    counts = (one["lines"], one["prompt_tokens"]["likely"], *(completion[name] for name in ("low", "likely", "high")))
    return [f"{count:,}" for count in counts]


def _ways_table(found: Json) -> Table:
    """What the same lines would cost and take on each way there is."""
    table = output.table(
        "--via", (f"low {found['currency']}", "right"), ("likely", "right"), ("high", "right"), ("time", "right")
    )
    for via, way in found["total"]["via"].items():
        if way["cost"] is None and way["seconds"] is None:
            continue
        costs = way["cost"] or {}
        chosen = " *" if via == found["via"] else ""
        time = "-" if way["seconds"] is None else output.duration(way["seconds"])
        figures = [output.rough_money(costs.get(name)) for name in ("low", "likely", "high")]
        table.add_row(f"{via}{chosen}", *figures, time)
    return table


def _limits(found: Json) -> list[str]:
    """Where its own limit or a budget may stop it."""
    told = []
    if (fits := found["fits_max_cost"]) is not None:
        told.append(f"--max-cost {output.money(found['max_cost'])}: {_room(fits)}")
    for budget in found["budget_left"]:
        for what in ("cost", "tokens"):
            if budget[f"fits_{what}"] is not None:
                told.append(f"{budget['told']}, {budget['left'][what]} left: {_room(budget[f'fits_{what}'])}")
    return told


def _room(fits: dict[str, bool]) -> str:
    if fits["high"]:
        return "enough"
    if fits["likely"]:
        return "likely enough, but not at the high end: the batch would pause there"
    return "likely too little: the batch would pause there" if fits["low"] else "too little"


def _unknown(found: Json) -> list[str]:
    way = found["total"]["via"][found["via"]]
    return [] if way["seconds"] is not None else [f"The time is not known: {way['why_no_seconds']}."]
