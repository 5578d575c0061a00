"""What each test did and what came of it: a line on the terminal, and in the JSON file TOLLGATE_CHAOS_REPORT."""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path
from typing import Any

import pytest

VARIABLE = "TOLLGATE_CHAOS_REPORT"


def write(config: pytest.Config, name: str, counts: dict[str, Any]) -> None:
    """The file maps a test's name to its counts; a test that runs again replaces its own."""
    line(config, f"{name}: " + ", ".join(f"{word.replace('_', ' ')} {value}" for word, value in counts.items()))
    if path := os.environ.get(VARIABLE):
        file = Path(path)
        told = json.loads(file.read_text()) if file.exists() else {}
        file.write_text(json.dumps({**told, name: counts}, indent=2, default=str) + "\n")


def line(config: pytest.Config, text: str) -> None:
    """Also while pytest captures what is printed. Nowhere in a process of pytest-xdist's, which has no terminal."""
    terminal = config.pluginmanager.get_plugin("terminalreporter")
    capturing = config.pluginmanager.get_plugin("capturemanager")
    if terminal is not None:
        with capturing.global_and_fixture_disabled() if capturing else contextlib.nullcontext():
            terminal.ensure_newline()
            terminal.write_line(text)
