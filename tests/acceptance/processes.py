"""Real processes, started as a user starts them, and waited for by what they print."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

BIN = Path(sys.executable).parent
START_S = 60.0
STOP_S = 30.0


class Process:
    """A command of this virtual environment, with its output in a file."""

    def __init__(self, command: list[str], *, log: Path, environment: Mapping[str, str], cwd: Path) -> None:
        self.command = [str(BIN / command[0]), *command[1:]]
        self.log = log
        self._file = log.open("wb")
        self._process = subprocess.Popen(
            self.command,
            stdout=self._file,
            stderr=subprocess.STDOUT,
            env={**clean_environment(), **environment},
            cwd=cwd,
        )

    def wait_for(self, pattern: str, *, timeout_s: float = START_S) -> re.Match[str]:
        """The first match of `pattern` in what it printed."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            if found := re.search(pattern, self.output):
                return found
            if self._process.poll() is not None:
                break
            time.sleep(0.05)  # another process's file gives no signal to wait on
        raise AssertionError(f"{' '.join(self.command)} did not print {pattern!r}:\n{self.output[-4000:]}")

    @property
    def output(self) -> str:
        return self.log.read_text(errors="replace")

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def exit_code(self) -> int | None:
        """None while it runs; negative: the signal that ended it."""
        return self._process.poll()

    def wait_for_end(self, *, timeout_s: float = STOP_S) -> int:
        """Its exit code."""
        return self._process.wait(timeout_s)

    def kill(self) -> None:
        """SIGKILL: no goodbye."""
        self._process.kill()
        self._process.wait(STOP_S)

    def freeze(self) -> None:
        """SIGSTOP: it does nothing, and nobody is told."""
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """SIGCONT: it goes on as if no time had passed."""
        self._process.send_signal(signal.SIGCONT)

    def ask_to_stop(self) -> None:
        """SIGTERM, without waiting. A frozen process would never see it."""
        self.thaw()
        self._process.send_signal(signal.SIGTERM)

    def stop(self) -> int:
        """SIGTERM, and its exit code."""
        if self._process.poll() is None:
            self.ask_to_stop()
            try:
                self._process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait(STOP_S)
                raise AssertionError(f"{' '.join(self.command)} did not stop:\n{self.output[-4000:]}") from None
        self._file.close()
        return self._process.returncode


def clean_environment() -> dict[str, str]:
    """This machine's, less every setting of Tollgate's."""
    ours = ("TOLLGATE_", "ZHIPUAI_", "ZHIPU_")
    return {name: value for name, value in os.environ.items() if not name.startswith(ours)}


class Processes:
    """Those of one test, all stopped at its end."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.started: list[Process] = []

    def start(self, *command: str, environment: Mapping[str, str]) -> Process:
        log = self.folder / f"{len(self.started)}-{command[0]}-{command[1]}.log"
        process = Process(list(command), log=log, environment=environment, cwd=self.folder)
        self.started.append(process)
        return process

    def run(self, *command: str, environment: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
        """Run to its end."""
        return subprocess.run(
            [str(BIN / command[0]), *command[1:]],
            env={**clean_environment(), **environment},
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=START_S,
            check=False,
        )

    def stop_all(self) -> Iterator[int]:
        for process in reversed(self.started):
            yield process.stop()
