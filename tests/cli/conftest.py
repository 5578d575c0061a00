"""A command line in this process, in an empty folder and a clean environment; and one embedded gateway for all."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.processes import Process, Processes, clean_environment
from tollgate.cli import main


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """A command that has ended."""

    code: int
    stdout: str
    stderr: str

    @property
    def json(self) -> Any:
        return json.loads(self.stdout)

    @property
    def json_lines(self) -> list[Any]:
        return [json.loads(line) for line in self.stdout.splitlines()]


Tollgate = Callable[..., Ended]


@pytest.fixture
def tollgate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Tollgate:
    """Runs `tollgate ARGUMENTS` in `tmp_path`, with no setting but the ones given as keywords."""
    monkeypatch.chdir(tmp_path)
    # A terminal as wide as the machine's is not to be relied on: tables must not wrap here.
    # (rich keeps the environment that there was when it was imported.)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr("os.environ", clean_environment())

    def run(*arguments: str, **environment: str) -> Ended:
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        capsys.readouterr()
        code = main(arguments)
        printed = capsys.readouterr()
        return Ended(code=code, stdout=printed.out, stderr=printed.err)

    return run


@dataclass(frozen=True, slots=True, kw_only=True)
class Up:
    """A running `tollgate up` on the simulator."""

    data: Path
    url: str
    processes: Processes
    server: Process


@pytest.fixture(scope="session")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    """One embedded gateway for every test that talks to one. Each test keeps to its own labels and ids."""
    folder = tmp_path_factory.mktemp("up")
    processes = Processes(folder)
    environment = {"TOLLGATE_DATA": str(folder / "data"), "TOLLGATE_SIMULATOR_LATENCY_S": "0.01"}
    server = processes.start("tollgate", "up", "--port", "0", environment=environment)
    try:
        url = server.wait_for(r"serves on (http://\S+)").group(1)
        yield Up(data=folder / "data", url=url, processes=processes, server=server)
    finally:
        codes = list(processes.stop_all())
    assert codes == [0], server.output
