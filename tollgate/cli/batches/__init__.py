"""`tollgate batch`: many prompts that are one piece of work, from a file to a file."""

from __future__ import annotations

import typer

from tollgate.cli.batches import acting, estimate, looking, results, run

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="rich",
    help="Batches: a file of prompts run as one piece of work, with one price, one limit and one file of results. "
    "[bold]Begin[/bold] with `tollgate batch run prompts.jsonl --out results.jsonl`.",
)


def register(root: typer.Typer) -> None:
    """Add the family to `root`."""
    for part in (run, looking, results, estimate, acting):
        part.register(app)
    root.add_typer(app, name="batch", rich_help_panel="Tasks")
