"""What the options of `batch run` and `batch estimate` say of all lines, as the body of POST /batches."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from tollgate.cli.submit import DEFAULT_MODEL, parse_parameters

Json = dict[str, Any]

File = Annotated[
    str,
    typer.Argument(
        metavar="FILE",
        help="JSONL, in OpenAI's or ZhipuAI's form or tasks; .csv or .tsv with --template; else a prompt a line. "
        "- is stdin.",
    ),
]
Template = Annotated[
    str | None, typer.Option(metavar="TEXT", help='Of a CSV: what to ask of a row, "Classify: {text}", by column.')
]
IdColumn = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="Of a CSV: the column of the custom_ids. Default: line-2, ..."),
]
Model = Annotated[str, typer.Option("--model", "-m", help="Where a line names none. glm-4-flash is free at ZhipuAI.")]
System = Annotated[str | None, typer.Option(help="A system message for every prompt that has none.")]
Temperature = Annotated[float | None, typer.Option(min=0, max=1, help="0 to 1, where a line says none.")]
MaxTokens = Annotated[int | None, typer.Option(min=1, help="The longest answer, in tokens, where a line says none.")]
Param = Annotated[
    list[str] | None, typer.Option("--param", metavar="NAME=JSON", help="Any other parameter; repeatable.")
]
Via = Annotated[
    str,
    typer.Option(
        metavar="direct|upstream_batch|local",
        help="Each line by a call of its own; by the upstream's batches, at half the price and in its time; or on "
        "your own GPUs.",
    ),
]

Label = Annotated[str | None, typer.Option(help="A dimension of the accounts: `tollgate usage --by label`.")]
MaxCost = Annotated[
    str | None,
    typer.Option(metavar="AMOUNT", help="Pause before it costs more than so much money: 12.50."),
]
Strict = Annotated[bool, typer.Option("--strict", help="One invalid line refuses the whole file; else the rest runs.")]
Priority = Annotated[
    str | None, typer.Option(metavar="bulk|interactive", help="Default: bulk, which lets single tasks pass.")
]
Window = Annotated[
    str | None, typer.Option(metavar="24h", help="What has not run by then expires: 90m, 24h (the default), 7d.")
]
Name = Annotated[str | None, typer.Option(help="For people. Default: the file's name.")]
Metadata = Annotated[
    list[str] | None, typer.Option("--metadata", metavar="NAME=JSON", help="Kept with the batch; repeatable.")
]
CallbackUrl = Annotated[
    str | None, typer.Option(metavar="URL", help="Told of the batch's end: an https URL. See `tollgate webhooks`.")
]

__all__ = ["DEFAULT_MODEL"]


def of_lines(
    *,
    model: str,
    system: str | None,
    temperature: float | None,
    max_tokens: int | None,
    param: list[str] | None,
    via: str,
) -> Json:
    """What lines get that do not say it themselves."""
    given = {"temperature": temperature, "max_tokens": max_tokens, **parse_parameters(param or [])}
    parameters = {name: value for name, value in given.items() if value is not None}
    told = {"model": model, "system": system, "parameters": parameters or None, "via": via}
    return {name: value for name, value in told.items() if value is not None}
