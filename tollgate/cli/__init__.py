"""The command `tollgate`. Whatever goes wrong ends in one clear message on stderr and an exit code, not a traceback."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from tollgate.cli import exits
from tollgate.domain.errors import TollgateError


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code. TOLLGATE_DEBUG=1 lets tracebacks through."""
    from tollgate.cli.app import app

    try:
        app(args=list(sys.argv[1:] if argv is None else argv), prog_name="tollgate")
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else exits.OK if ended.code is None else exits.FAILED
    except KeyboardInterrupt:
        return exits.INTERRUPTED
    except Exception as error:  # the edge of the command: whatever is left gets a sentence, not a traceback
        if os.environ.get("TOLLGATE_DEBUG") == "1":
            raise
        print(_sentence(error), file=sys.stderr)
        return exits.code_of(error)
    return exits.OK


def _sentence(error: Exception) -> str:
    if isinstance(error, TollgateError):
        return f"tollgate: {error}"
    return (
        f"tollgate: an error inside Tollgate: {type(error).__name__}: {error}\n"
        "TOLLGATE_DEBUG=1 shows where. Please report it."
    )
