"""How a command ends: the exit codes, and the errors of talking to a gateway.

TollgateError
├── GatewayUnreachableError    nothing answers at the address, or no answer came
├── MissingKeyError            there is no key to show
├── BadFileError               a file cannot be read, written or used as it is
└── RefusedError               the gateway answered with an error
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tollgate.domain.errors import (
    InvalidRequestError,
    SettingsError,
    StoreUnavailableError,
    TollgateError,
    UnknownModelError,
)

OK = 0
FAILED = 1
"""Some task failed, some line was refused, some check fails."""
USAGE = 2
"""The command line, a file or a setting is wrong; nothing was done."""
UNREACHABLE = 3
"""Nobody answers, or the key is refused."""
INTERRUPTED = 130
"""Ctrl-C: 128 and SIGINT's number, as shells have it."""

HELP = (
    "[bold]Exit codes[/bold]: 0 all good, 1 something failed, 2 wrong usage, a bad file or setting, "
    "3 the gateway cannot be reached or refuses the key, 130 interrupted."
)


class GatewayUnreachableError(TollgateError):
    """No answer. `sent` tells whether the request may have arrived all the same."""

    def __init__(self, message: str, *, sent: bool) -> None:
        super().__init__(message)
        self.sent = sent


class MissingKeyError(TollgateError):
    """No key for a gateway that wants one."""


class BadFileError(TollgateError):
    """A file of the user's is to blame; says which, where in it, and what to do."""


class RefusedError(TollgateError):
    """The gateway's answer was an error: `status` and `kind` ("invalid_request", ...) are its own."""

    def __init__(self, status: int, *, kind: str, message: str, details: Mapping[str, Any] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.kind = kind
        self.details = details or {}


def code_of(error: BaseException) -> int:
    """The exit code that an error ends a command with."""
    if isinstance(error, RefusedError):
        if error.status in (401, 403, 503):
            return UNREACHABLE
        return USAGE if error.status in (400, 413) else FAILED
    if isinstance(error, GatewayUnreachableError | MissingKeyError | StoreUnavailableError):
        return UNREACHABLE
    if isinstance(error, SettingsError | BadFileError | InvalidRequestError | UnknownModelError):
        return USAGE
    return FAILED
