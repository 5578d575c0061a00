"""`tollgate keys` with limits, and a client of a key that has some."""

from __future__ import annotations

import contextlib
import http.server
import json
import re
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from tests.cli.conftest import Tollgate, Up
from tests.cli.test_budgets import MASTER
from tollgate.cli.client import Gateway
from tollgate.cli.connection import Target
from tollgate.cli.exits import RefusedError

LIMITS = ("requests_per_minute", "tokens_per_minute", "max_in_flight")


@pytest.fixture
def on_database(tollgate: Tollgate, database_url: str) -> Tollgate:
    return lambda *arguments, **more: tollgate(
        *arguments, **{"TOLLGATE_DATABASE_URL": database_url, "TOLLGATE_MASTER_KEY": MASTER, **more}
    )


def limits_of(on_database: Tollgate) -> list[Any]:
    """Of the only key."""
    (key,) = on_database("keys", "list", "--json").json
    return [key[name] for name in LIMITS]


def test_a_key_is_made_with_limits_which_the_list_shows(on_database: Tollgate) -> None:
    options = ("--requests-per-minute", "600", "--tokens-per-minute", "1000000", "--max-in-flight", "50")
    made = on_database("keys", "create", "--project", "search", *options, "--json").json
    assert [made[name] for name in LIMITS] == [600, 1_000_000, 50] == limits_of(on_database)
    table = on_database("keys", "list").stdout
    assert "600 requests/min" in table
    on_database("keys", "create", "--project", "free")
    assert "not limited" in on_database("keys", "list", "--project", "free").stdout


def test_a_limit_is_changed_by_itself_and_lifted(on_database: Tollgate) -> None:
    made = on_database("keys", "create", "--project", "search", "--requests-per-minute", "60", "--json").json
    changed = on_database("keys", "limit", made["id"], "--max-in-flight", "10")
    assert changed.stdout == f"key {made['id']}: 60 requests/min, 10 in flight\n"
    pasted = on_database("keys", "limit", made["key"], "--requests-per-minute", "none", "--tokens-per-minute", "5000")
    assert pasted.stdout == f"key {made['id']}: 5,000 tokens/min, 10 in flight\n"
    assert made["key"].partition(".")[2] not in pasted.stdout + pasted.stderr
    assert limits_of(on_database) == [None, 5_000, 10]
    (budget,) = on_database("budgets", "list", "--json").json
    assert (budget["period"], budget["limit_tasks"], budget["key"]) == ("in_flight", 10, made["id"])
    lifted = on_database("keys", "limit", made["id"], "--max-in-flight", "none", "--tokens-per-minute", "none")
    assert lifted.stdout == f"key {made['id']}: not limited\n"
    assert on_database("budgets", "list", "--json").json == []


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        ((), 2, "give --requests-per-minute"),
        (("--requests-per-minute", "0"), 2, "'0': write a number from 1 to 1000000000, or none"),
        (("--tokens-per-minute", "1e3"), 2, "write a number from 1"),
        (("--max-in-flight", "-1"), 2, "--max-in-flight"),
        (("--max-in-flight", "9999999999"), 2, "--max-in-flight"),
    ],
)
def test_what_is_wrong_is_told_and_changes_nothing(
    on_database: Tollgate, arguments: tuple[str, ...], code: int, told: str
) -> None:
    made = on_database("keys", "create", "--project", "search", "--max-in-flight", "3", "--json").json
    ended = on_database("keys", "limit", made["id"], *arguments)
    assert (ended.code, ended.stdout) == (code, "")
    assert told in ended.stderr
    assert limits_of(on_database) == [None, None, 3]


def test_a_key_that_is_not_there_is_told(on_database: Tollgate) -> None:
    ended = on_database("keys", "limit", "nobody", "--max-in-flight", "3")
    assert (ended.code, ended.stderr) == (1, "tollgate: no key 'nobody'\n")


def test_a_projects_tasks_in_flight_are_a_budget_that_is_set_and_listed(on_database: Tollgate) -> None:
    on_database("keys", "create", "--project", "search")
    made = on_database("budgets", "set", "--project", "search", "--period", "in_flight", "--tasks", "500")
    assert re.fullmatch(r"budget \S+: search may use 500 tasks at once\n", made.stdout), made.stderr
    assert re.search(r"search +in_flight +tasks +500 +- +0 +- +500 +never", on_database("budgets", "list").stdout)


@pytest.mark.parametrize(
    "arguments",
    [
        ("--period", "in_flight"),
        ("--period", "in_flight", "--cost", "1"),
        ("--period", "in_flight", "--tasks", "1", "--tokens", "0"),
        ("--period", "total", "--tasks", "1"),
    ],
)
def test_tasks_are_limited_in_flight_and_nothing_else_is(on_database: Tollgate, arguments: tuple[str, ...]) -> None:
    on_database("keys", "create", "--project", "search")
    ended = on_database("budgets", "set", "--project", "search", *arguments)
    assert (ended.code, ended.stdout) == (2, "")
    assert "--period in_flight and --tasks belong together" in ended.stderr


class Full(http.server.BaseHTTPRequestHandler):
    """Answers a submit with each of the server's `answers` in turn."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        status, headers = self.server.answers.pop(0)  # type: ignore[attr-defined]
        body = json.dumps({"data": []} if status == 202 else {"error": {"type": "rate_limited", "message": "full"}})
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
        pass


@contextlib.contextmanager
def answering(*answers: tuple[int, dict[str, str]]) -> Iterator[tuple[Gateway, list[float]]]:
    """A client of a gateway that answers so, and how long it slept."""
    with http.server.HTTPServer(("127.0.0.1", 0), Full) as server:
        server.answers = list(answers)  # type: ignore[attr-defined]
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        slept: list[float] = []
        url = f"http://127.0.0.1:{server.server_port}"
        try:
            with Gateway(Target(url=url, url_from="here", key="id.secret", key_from="here"), sleep=slept.append) as one:
                yield one, slept
        finally:
            server.shutdown()
            thread.join()


def test_a_client_waits_for_room_as_long_as_it_is_told_to_and_says_so_once(capsys: pytest.CaptureFixture[str]) -> None:
    full = (429, {"Retry-After": "7"})
    with answering(*[full] * 8, (202, {})) as (gateway, slept):
        assert gateway.submit([{}]) == []
    assert slept == [7.0] * 8
    assert capsys.readouterr().err == "full; waiting for it\n"


def test_a_client_gives_up_what_never_fits() -> None:
    with answering((429, {"x-should-retry": "false"})) as (gateway, slept):
        with pytest.raises(RefusedError, match="full"):
            gateway.submit([{}])
        assert slept == []


def test_a_submit_that_never_fits_says_why(up: Up, tollgate: Tollgate) -> None:
    where = {"TOLLGATE_DATA": str(up.data)}
    key = tollgate("keys", "create", "--project", "small", "--max-in-flight", "1", **where).stdout.strip()
    ended = tollgate("submit", "one", "two", "--model", "glm-4-air", "--key", key, **where)
    assert (ended.code, ended.stdout) == (1, "")
    assert "this key's limit of 1 tasks in flight does not have room: 1 left, 2 submitted at once" in ended.stderr
