"""Options that several commands share, and the gateway that they lead to."""

from __future__ import annotations

import os
from collections.abc import Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from tollgate.cli import connection

if TYPE_CHECKING:
    from tollgate.cli.client import Gateway
    from tollgate.settings import Settings

Result = TypeVar("Result")

Url = Annotated[
    str | None,
    typer.Option("--url", metavar="URL", help="The gateway. Default: TOLLGATE_URL, else http://127.0.0.1:8000."),
]
Key = Annotated[str | None, typer.Option("--key", metavar="ID.SECRET", help="The API key. Default: TOLLGATE_KEY.")]
Data = Annotated[
    Path | None,
    typer.Option(
        "--data", metavar="DIR", help="Data folder of `tollgate up`. Default: TOLLGATE_DATA, else ./.tollgate."
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="JSON on stdout, and nothing else there.")]
AsJsonLines = Annotated[bool, typer.Option("--json", help="JSON lines on stdout, one task a line, and nothing else.")]


def gateway(*, url: str | None, key: str | None, data: Path | None) -> Gateway:
    """The gateway that the options, the environment and the data folder name. Raises MissingKeyError, SettingsError."""
    from tollgate.cli.client import Gateway

    return Gateway(connection.find_target(connection.environment(), url=url, key=key, data=data))


def settings(data: Path | None) -> Settings:
    """The servers' settings, with --data over TOLLGATE_DATA. Raises SettingsError."""
    from tollgate import settings as settings_module

    return settings_module.load(os.environ if data is None else {**os.environ, "TOLLGATE_DATA": str(data)})


def run(work: Coroutine[Any, Any, Result]) -> Result:
    """The store speaks asyncio; a command is a function."""
    import asyncio

    return asyncio.run(work)
