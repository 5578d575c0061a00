from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from tests.acceptance.processes import Processes
from tests.cli.conftest import Tollgate
from tollgate import __version__
from tollgate.cli.app import app
from tollgate.simulator import SimulatorSettings, settings_json

HEAVY = {"sqlalchemy", "alembic", "celery", "kombu", "zhipuai", "fastapi", "uvicorn", "aiohttp", "httpx2", "redis"}


def commands(group: Any, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    found: list[tuple[str, ...]] = []
    for name, command in group.commands.items():
        found += commands(command, (*path, name)) if hasattr(command, "commands") else [(*path, name)]
    return found


@pytest.mark.parametrize("command", commands(get_command(app)), ids=" ".join)
def test_each_command_teaches_with_an_example(command: tuple[str, ...], tollgate: Tollgate) -> None:
    ended = tollgate(*command, "--help")
    assert ended.code == 0
    shown = " ".join(ended.stdout.split())
    assert f"tollgate {' '.join(command)}" in shown.partition("Example")[2]


def test_the_exit_codes_are_told(tollgate: Tollgate) -> None:
    for command in ((), ("submit",), ("get",), ("doctor",)):
        assert "130 interrupted" in " ".join(tollgate(*command, "--help").stdout.split())


def test_the_version_is_told(tollgate: Tollgate) -> None:
    assert tollgate("--version").stdout == f"tollgate {__version__}\n"


def test_help_imports_nothing_heavy() -> None:
    code = "import sys, tollgate.cli.app; print(*{name.partition('.')[0] for name in sys.modules})"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not HEAVY & set(ended.stdout.split())


def test_nobody_there_is_one_line_and_exit_code_3(tollgate: Tollgate) -> None:
    ended = tollgate("submit", "hi", TOLLGATE_URL="http://127.0.0.1:9", TOLLGATE_KEY="a.b")
    assert ended.code == 3
    assert "nobody answers at http://127.0.0.1:9 (from TOLLGATE_URL)" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert ended.stdout == ""


@pytest.mark.parametrize("command", ["simulator", "gateway"])
def test_a_port_in_use_is_a_wrong_usage_with_the_way_out(command: str, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        ended = Processes(tmp_path).run("tollgate", command, "--port", str(port), environment={})
    told = f"tollgate: cannot listen on 127.0.0.1:{port}: Address already in use; choose another with --port\n"
    assert (ended.returncode, ended.stdout, ended.stderr) == (2, "", told)


def test_the_simulator_says_which_models_it_knows_and_how_to_change_its_faults(tollgate: Tollgate) -> None:
    shown = " ".join(tollgate("simulator", "--help").stdout.split())
    assert "price at upstream zhipu (TOLLGATE_PRICES_FILE)" in shown
    given = [settings_json.parse(one.encode()) for one in re.findall(r"PUT \$URL -d '([^']*)'", shown)]
    assert len(given) == 3
    for changes in given:
        settings_json.change(SimulatorSettings(), changes)


def test_no_key_is_exit_code_3_with_the_ways_out(tollgate: Tollgate) -> None:
    ended = tollgate("usage")
    assert ended.code == 3
    assert "TOLLGATE_KEY=id.secret" in ended.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ("submit",),
        ("submit", "a", "--file", "b"),
        ("submit", "--file", "absent.txt"),
        ("submit", "a", "b", "--request-id", "request-1"),
        ("submit", "a", "--param", "novalue"),
        ("submit", "a", "--temperature", "3"),
        ("submit", "a", "--out", "/absent/x", "--key", "a.b"),
        ("tasks", "list", "--from", "yesterday"),
        ("usage", "--csv", "--json"),
        ("keys", "create", "--project", "p", "--role", "king"),
        ("keys", "create", "--project", "p", "--expires", "soon"),
        ("keys", "create", "--project", "p", "--models", "no-such-model"),
        ("keys", "create", "--project", "a\tb"),
        ("prices", "check", "absent.toml"),
        ("nonsense",),
    ],
    ids=" ".join,
)
def test_wrong_usage_is_exit_code_2(arguments: tuple[str, ...], tollgate: Tollgate) -> None:
    ended = tollgate(*arguments)
    assert ended.code == 2, ended.stderr
    assert ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ("submit",),
        ("submit", "fine"),
        ("submit", "fine", "--label"),
        ("usage", "--project"),
        ("tasks", "list", "--label"),
    ],
    ids=" ".join,
)
def test_an_argument_that_is_not_utf8_is_one_line_and_exit_code_2(
    arguments: tuple[str, ...], tollgate: Tollgate
) -> None:
    ended = tollgate(*arguments, os.fsdecode(b"\xc3\xa4\xff"), TOLLGATE_URL="http://127.0.0.1:9", TOLLGATE_KEY="a.b")
    assert (ended.code, ended.stdout) == (2, "")
    assert ended.stderr == "tollgate: the argument 'ä\\xff' is not valid UTF-8\n"


@pytest.mark.parametrize("content", [b"", b"\n", b" \r\n\n", b"\xef\xbb\xbf\n"], ids=repr)
def test_a_file_without_a_prompt_is_said_and_exit_code_2(content: bytes, tollgate: Tollgate, tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").write_bytes(content)
    ended = tollgate("submit", "--file", "empty.jsonl", TOLLGATE_KEY="a.b")
    assert (ended.code, ended.stdout) == (2, "")
    assert "empty.jsonl is empty" in ended.stderr


def test_a_bug_is_a_sentence_and_a_traceback_only_on_demand(
    tollgate: Tollgate, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A patch, since no real command is known to break.
    def broken(**_options: object) -> None:
        raise ZeroDivisionError("oh")

    monkeypatch.setattr("tollgate.cli.options.gateway", broken)
    ended = tollgate("usage")
    assert (ended.code, ended.stdout) == (1, "")
    assert "an error inside Tollgate: ZeroDivisionError: oh" in ended.stderr
    assert "Traceback" not in ended.stderr
    with pytest.raises(ZeroDivisionError):
        tollgate("usage", TOLLGATE_DEBUG="1")
