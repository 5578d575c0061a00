"""A process whose device is broken starts anew: it stops as it does on SIGTERM, and runs the same command once more.

Errors of a GPU are sticky: whatever this process asks of it from then on fails. A new process gets a new context.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
from typing import NoReturn

log = logging.getLogger("tollgate.restart")

LEAST_S = 60.0
"""A model that broke sooner than this after it was loaded would only break again."""


def stop_process(error: BaseException, served_s: float) -> None:
    """Stop cleanly, for whoever started it to start it anew. From any thread."""
    log.critical(
        "the local engine is dead, the process stops", extra={"error": repr(error), "served_s": round(served_s)}
    )
    os.kill(os.getpid(), signal.SIGTERM)


class Restart:
    """One process's. `ask` from any thread; `follow` when all has stopped."""

    def __init__(self) -> None:
        self._served_s: float | None = None

    def ask(self, error: BaseException, served_s: float) -> None:
        """Stop, to begin anew."""
        self._served_s = served_s
        stop_process(error, served_s)

    def follow(self, exit_code: int) -> int:
        """The exit code to end with; where a restart was asked for, and may help, it does not return."""
        if self._served_s is None:
            return exit_code
        if self._served_s < LEAST_S:
            log.critical(
                "not started anew: the device broke right after the model was loaded; see the error above, nvidia-smi, "
                "dmesg",
                extra={"served_s": round(self._served_s)},
            )
            return 1
        return _run_again()


def _run_again() -> NoReturn:
    """This very command, in this process."""
    sys.stdout.flush()
    sys.stderr.flush()
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])  # noqa: S606 - no shell: nothing to interpret
