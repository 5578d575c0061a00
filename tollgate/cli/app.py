"""The typer app: the commands put together. Nothing heavy is imported here, so that --help answers at once."""

from __future__ import annotations

from typing import Annotated

import typer

from tollgate import __version__
from tollgate.cli import (
    batches,
    budgets,
    doctor,
    exits,
    files,
    get,
    keys,
    models,
    prices,
    projects,
    reconcile,
    servers,
    submit,
    tasks,
    usage,
    webhooks,
)

ABOUT = """An async job gateway for large language models: a prompt in, a task id out, its result and its cost back.

[bold]Begin[/bold] with `tollgate up` in one terminal, and in another: `tollgate submit "Why is the sky blue?" --wait`

Client commands talk to TOLLGATE_URL (default http://127.0.0.1:8000) with TOLLGATE_KEY, or with the admin key in the
data folder of `tollgate up` (TOLLGATE_DATA, default ./.tollgate)."""

app = typer.Typer(
    name="tollgate",
    help=ABOUT,
    epilog=exits.HELP,
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"tollgate {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


for family in (
    servers,
    submit,
    get,
    tasks,
    batches,
    files,
    webhooks,
    usage,
    reconcile,
    keys,
    projects,
    budgets,
    models,
    prices,
    doctor,
):
    family.register(app)
