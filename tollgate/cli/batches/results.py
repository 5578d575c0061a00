"""`tollgate batch results`: what the lines came to, while the batch runs, too."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from tollgate.cli import exits, options
from tollgate.cli.batches.looking import BatchId

Out = Annotated[Path | None, typer.Option("--out", "-o", metavar="FILE", help="Write them there. Default: stdout.")]
Format = Annotated[
    str | None,
    typer.Option(
        "--format",
        metavar="openai|jsonl|csv",
        help="OpenAI's output lines (the default), the gateway's own with tokens and cost, or CSV (that of .csv).",
    ),
]
Which = Annotated[str, typer.Option(metavar="all|succeeded|failed", help="Only lines that came to this.")]
Order = Annotated[str, typer.Option(metavar="input|finished", help="As they stand in the input, or as they ended.")]
IncludeInput = Annotated[bool, typer.Option("--include-input", help="With what was asked, beside what was answered.")]
After = Annotated[str | None, typer.Option(metavar="CURSOR", help="Only what comes after it.")]
Force = Annotated[bool, typer.Option("--force", help="Replace the file of --out if there is one.")]


def register(app: typer.Typer) -> None:
    """Add the command to the family."""
    app.command(epilog=exits.HELP)(results)


def results(
    batch_id: BatchId,
    out: Out = None,
    form: Format = None,
    which: Which = "all",
    order: Order = "input",
    include_input: IncludeInput = False,
    after: After = None,
    force: Force = False,
    url: options.Url = None,
    key: options.Key = None,
    data: options.Data = None,
) -> None:
    """Fetch the results of a batch, invalid lines and their reasons among them.

    In the input's order, those of a batch that runs reach to the first line that
    has not ended yet; --order finished has all there are.

    Examples:
      tollgate batch results 01a20464-51f8-709a-b8cb-cc506b33e5ae --out results.csv
      tollgate batch results ID --which failed --include-input --format jsonl
    """
    from tollgate.cli.batches import fetching, outputs

    default = "jsonl" if include_input and outputs.format_of(out) == "openai" else outputs.format_of(out)
    asked = {"format": form or default, "which": which, "order": order}
    asked |= {"include": "input"} if include_input else {}
    asked |= {"after": after} if after is not None else {}
    with options.gateway(url=url, key=key, data=data) as gateway:
        found = fetching.lines(gateway, batch_id, asked)
        if out is None:
            sys.stdout.flush()
            sys.stdout.buffer.writelines(found)
            return
        with outputs.Part(out, force=force) as part:
            for line in found:
                part.write(line)
            part.keep()
