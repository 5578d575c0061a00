"""`tollgate batch run` and `attach`: the options, and what they come to."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from tollgate.cli import exits, options
from tollgate.cli.batches import terms
from tollgate.cli.batches.looking import BatchId
from tollgate.cli.connection import segment

Json = dict[str, Any]

Out = Annotated[
    Path | None,
    typer.Option("--out", "-o", metavar="FILE", help="Write the results there: OpenAI's output lines, or a .csv."),
]
Order = Annotated[
    str,
    typer.Option(
        metavar="input|finished", help="Of --out: whole at the end, in the input's order; or appended as lines finish."
    ),
]
Force = Annotated[bool, typer.Option("--force", help="Replace the file of --out if there is one.")]
Detach = Annotated[bool, typer.Option("--detach", "-d", help="Print the batch's id and leave it to itself.")]
NoEstimate = Annotated[
    bool, typer.Option("--no-estimate", help="Begin at once: the estimate reads every line of the file first.")
]


def register(app: typer.Typer) -> None:
    """Add these commands to the family."""
    for command in (run, attach):
        app.command(epilog=exits.HELP)(command)


def run(
    *,
    file: terms.File,
    out: Out = None,
    order: Order = "input",
    force: Force = False,
    template: terms.Template = None,
    id_column: terms.IdColumn = None,
    model: terms.Model = terms.DEFAULT_MODEL,
    system: terms.System = None,
    max_tokens: terms.MaxTokens = None,
    temperature: terms.Temperature = None,
    param: terms.Param = None,
    label: terms.Label = None,
    max_cost: terms.MaxCost = None,
    strict: terms.Strict = False,
    via: terms.Via = "direct",
    priority: terms.Priority = None,
    window: terms.Window = None,
    name: terms.Name = None,
    metadata: terms.Metadata = None,
    callback_url: terms.CallbackUrl = None,
    no_estimate: NoEstimate = False,
    detach: Detach = False,
    as_json: options.AsJson = False,
    url: options.Url = None,
    key: options.Key = None,
    data: options.Data = None,
) -> None:
    """Run a file of prompts, watch it, and write the results.

    The file is uploaded, its cost is estimated, then it runs; --max-cost is what
    stops it. Ctrl-C leaves it running: `tollgate batch attach ID` watches again.
    The exit code is 0 only if every line succeeded, 2 if the batch failed as a
    whole, before a line was run.

    Examples:
      tollgate batch run prompts.jsonl --out results.jsonl
      tollgate batch run reviews.csv --template "Classify: {text}" --id-column id --out results.csv
      tollgate batch run prompts.txt --model glm-4-air --max-cost 50 --label nightly --detach
      zcat prompts.jsonl.gz | tollgate batch run - --out results.jsonl --order finished
    """
    from tollgate.cli.batches import outputs
    from tollgate.cli.batches.course import Course
    from tollgate.cli.batches.sources import Columns, Source
    from tollgate.cli.submit import parse_parameters

    _require_order(order, out)
    if detach and out is not None:
        raise typer.BadParameter(
            "nobody is there to write --out; leave it out, and attach later", param_hint="--detach"
        )
    source = Source(file, columns=Columns(template=template, id_column=id_column))
    of_lines = terms.of_lines(
        model=model, system=system, temperature=temperature, max_tokens=max_tokens, param=param, via=via
    )
    of_batch = {
        "label": label,
        "max_cost": max_cost,
        "strict": strict or None,
        "priority": priority,
        "completion_window": window,
        "name": name,
        "metadata": parse_parameters(metadata or [], option="--metadata") or None,
        "callback_url": callback_url,
    }
    asked = of_lines | {field: value for field, value in of_batch.items() if value is not None}
    with (
        options.gateway(url=url, key=key, data=data) as gateway,
        outputs.opened(out, gateway, order=order, force=force) as sink,
    ):
        course = Course(gateway=gateway, out=sink, as_json=as_json)
        raise typer.Exit(course.run(source, asked, with_estimate=not no_estimate, detach=detach))


def attach(
    batch_id: BatchId,
    out: Out = None,
    order: Order = "input",
    force: Force = False,
    as_json: options.AsJson = False,
    url: options.Url = None,
    key: options.Key = None,
    data: options.Data = None,
) -> None:
    """Watch a batch to its end, and write its results; also one that has ended.

    With --order finished and the file that an earlier run or attach was writing
    of this batch, it goes on where that file ends.

    Examples:
      tollgate batch attach 01a20464-51f8-709a-b8cb-cc506b33e5ae --out results.jsonl
      tollgate batch attach ID --out results.jsonl --order finished
    """
    from tollgate.cli.batches import outputs
    from tollgate.cli.batches.course import Course

    _require_order(order, out)
    with options.gateway(url=url, key=key, data=data) as gateway:
        batch = gateway.ask("GET", f"/batches/{segment(batch_id)}")
        with outputs.opened(out, gateway, order=order, force=force, batch_id=batch["id"]) as sink:
            raise typer.Exit(Course(gateway=gateway, out=sink, as_json=as_json).attach(batch))


def _require_order(order: str, out: Path | None) -> None:
    """Raises typer.BadParameter."""
    if order not in ("input", "finished"):
        raise typer.BadParameter(f"{order!r}: write input or finished", param_hint="--order")
    if order == "finished" and out is not None and out.suffix.lower() == ".csv":
        raise typer.BadParameter("as lines finish they are written as JSON lines; name no .csv", param_hint="--order")
