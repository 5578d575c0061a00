"""The command `tollgate`. Whatever goes wrong ends in one clear message on stderr and an exit code, not a traceback."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Sequence

from tollgate.cli import exits
from tollgate.domain.errors import TollgateError

_LOST_BYTE = re.compile("[\udc80-\udcff]")
"""How Python keeps a byte of the command line that is not UTF-8 (PEP 383); it can neither be sent nor stored."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code. TOLLGATE_DEBUG=1 lets tracebacks through."""
    from tollgate.cli.app import app

    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        app(args=arguments, prog_name="tollgate")
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else exits.OK if ended.code is None else exits.FAILED
    except KeyboardInterrupt:
        return exits.INTERRUPTED
    except Exception as error:  # the edge of the command: whatever is left gets a sentence, not a traceback
        if os.environ.get("TOLLGATE_DEBUG") == "1":
            raise
        wrong = _not_utf8(arguments) if isinstance(error, UnicodeEncodeError) else None
        print(wrong or _sentence(error), file=sys.stderr)
        return exits.USAGE if wrong else exits.code_of(error)
    return exits.OK


def _not_utf8(arguments: Sequence[str]) -> str | None:
    """Why a text could not be encoded, if an argument is to blame. Paths may be such: only what fails is asked."""
    for argument in arguments:
        if _LOST_BYTE.search(argument):
            shown = _LOST_BYTE.sub(lambda found: f"\\x{ord(found[0]) & 0xFF:02x}", argument)
            return f"tollgate: the argument '{shown}' is not valid UTF-8"
    return None


def _sentence(error: Exception) -> str:
    if isinstance(error, TollgateError):
        return f"tollgate: {error}"
    return (
        f"tollgate: an error inside Tollgate: {type(error).__name__}: {error}\n"
        "TOLLGATE_DEBUG=1 shows where. Please report it."
    )
