"""A real `celery -A worker worker` in a process of its own."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

ROOT = Path(__file__).parents[2]
STOP_S = 30.0


@dataclass(kw_only=True)
class CeleryProcess:
    """Its log is in `log`. Killed at the end of the block, if it still runs."""

    environment: dict[str, str]

    def __post_init__(self) -> None:
        self.log = Path(tempfile.mkstemp(suffix=".log", prefix="celery-")[1])

    def __enter__(self) -> CeleryProcess:
        self.log.touch()
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "celery", "-A", "worker", "worker", "--loglevel", "info"],
                cwd=ROOT,
                env={**_plain_environment(), **self.environment},
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        if exc is not None:
            print(self.log.read_text())
        self.log.unlink()

    def signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    async def ended(self) -> int:
        """Its exit status."""
        return await asyncio.to_thread(self._process.wait, STOP_S)


def _plain_environment() -> dict[str, str]:
    """This process's, without settings of Tollgate's."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("TOLLGATE_", "ZHIPU"))}
