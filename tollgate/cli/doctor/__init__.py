"""`tollgate doctor`: looks at everything an installation needs, and says what to do about what is wrong.

It pays for nothing and changes nothing.
"""

from __future__ import annotations

from typing import Annotated

import typer

from tollgate.cli import exits, options

Slow = Annotated[
    bool, typer.Option("--slow", help="Also watch the workers' heartbeats for 6 s, whatever their clocks say.")
]


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command(rich_help_panel="Administration", epilog=exits.HELP)(doctor)


def doctor(
    slow: Slow = False,
    as_json: options.AsJson = False,
    url: options.Url = None,
    key: options.Key = None,
    data: options.Data = None,
) -> None:
    """Check settings, files, database, broker, workers, upstreams and the gateway. Changes and buys nothing.

    Exit code 1 if a check fails; a warning is no failure.

    Examples:
      tollgate doctor
      tollgate doctor --json | jq '.checks[] | select(.state != "ok")'
    """
    from tollgate.cli.doctor import examination, report

    found = examination.examine(url=url, key=key, data=data, slow=slow)
    if as_json:
        report.print_json(found)
    else:
        report.print_tables(found)
    raise typer.Exit(exits.FAILED if found.failed else exits.OK)
