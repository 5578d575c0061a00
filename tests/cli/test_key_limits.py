"""`tollgate keys` with limits, and a client of a key that has some."""

from __future__ import annotations

import contextlib
import http.server
import json
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import Tollgate, Up
from tests.cli.test_budgets import MASTER
from tollgate.cli import submissions
from tollgate.cli.client import Gateway
from tollgate.cli.connection import Target
from tollgate.cli.exits import RefusedError
from tollgate.cli.fitting import Fitting
from tollgate.cli.prompts import Line

ONE = {"prompt": "p"}
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
        tasks = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        status, headers, *details = self.server.answers.pop(0)  # type: ignore[attr-defined]
        if status == 202:
            self.server.accepted.append(tasks)  # type: ignore[attr-defined]
            body = json.dumps({"data": [{"id": task["prompt"]} for task in tasks]})
        else:
            problem = {"type": "rate_limited", "message": "full"}
            body = json.dumps({"error": problem | (details[0] if details else {})})
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
        pass


@contextlib.contextmanager
def answering(
    *answers: tuple[int, dict[str, str]] | tuple[int, dict[str, str], dict[str, Any]],
    accepted: list[Any] | None = None,
) -> Iterator[tuple[Gateway, list[float]]]:
    """A client of a gateway that answers so, and how long it slept. What is taken goes to `accepted`."""
    with http.server.HTTPServer(("127.0.0.1", 0), Full) as server:
        server.answers = list(answers)  # type: ignore[attr-defined]
        server.accepted = [] if accepted is None else accepted  # type: ignore[attr-defined]
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
        gateway.submit([ONE])
    assert slept == [7.0] * 8
    assert capsys.readouterr().err == "full; waiting for it\n"


def test_that_it_waits_for_a_limit_is_told_once_for_all_its_requests(capsys: pytest.CaptureFixture[str]) -> None:
    flight, tokens = ({"limit": limit, "message": limit} for limit in ("max_in_flight", "tokens_per_minute"))
    full = [(429, {"Retry-After": "7"}, limit) for limit in (flight, flight, tokens)]
    with answering(full[0], (202, {}), full[1], full[2], (202, {})) as (gateway, slept):
        gateway.submit([ONE])
        gateway.submit([ONE])
    assert slept == [7.0] * 3
    assert capsys.readouterr().err == "max_in_flight; waiting for it\ntokens_per_minute; waiting for it\n"


def test_a_client_gives_up_what_never_fits() -> None:
    with answering((429, {"x-should-retry": "false"})) as (gateway, slept):
        with pytest.raises(RefusedError, match="full"):
            gateway.submit([ONE])
        assert slept == []


def lines(count: int, **more: Any) -> list[Line]:
    return [Line(place=f"f:{n}", number=n, task={"prompt": f"p{n}", **more}) for n in range(1, count + 1)]


def final(limit: str, value: int) -> tuple[int, dict[str, str], dict[str, Any]]:
    return 429, {"x-should-retry": "false"}, {"limit": limit, "limit_value": value}


def prompts(accepted: list[Any]) -> list[list[str]]:
    return [[task["prompt"] for task in tasks] for tasks in accepted]


def test_a_list_over_the_limit_in_flight_is_sent_in_pieces_in_order_and_so_are_those_after_it(
    capsys: pytest.CaptureFixture[str],
) -> None:
    accepted: list[Any] = []
    fitting = Fitting()
    wait = (429, {"Retry-After": "2"})
    with answering(
        final("max_in_flight", 2), (202, {}), wait, (202, {}), (202, {}), (202, {}), (202, {}), accepted=accepted
    ) as (gateway, slept):
        told = [one for _ in range(2) for one in submissions.submit(gateway, lines(5)[_ * 2 :], fitting=fitting)]
    assert prompts(accepted) == [["p1", "p2"], ["p3", "p4"], ["p5"], ["p3", "p4"], ["p5"]]
    assert [(one.accepted or {})["id"] for one in told] == ["p1", "p2", "p3", "p4", "p5", "p3", "p4", "p5"]
    assert slept == [2.0]
    assert capsys.readouterr().err.count("the limit of 2 tasks in flight takes lists of up to 2") == 1


def test_a_list_over_the_tokens_of_a_minute_is_halved_and_what_never_fits_is_refused_alone(
    capsys: pytest.CaptureFixture[str],
) -> None:
    accepted: list[Any] = []
    over = final("tokens_per_minute", 1_000)
    with answering(over, (202, {}), over, (202, {}), over, accepted=accepted) as (gateway, _):
        told = list(submissions.submit(gateway, lines(4), fitting=Fitting()))
    assert prompts(accepted) == [["p1", "p2"], ["p3"]]
    assert [(one.line.number, one.line.problem) for one in told if one.accepted is None] == [(4, "full")]
    assert capsys.readouterr().err.count("shorter lists") == 1


@pytest.mark.parametrize("error", [final("max_in_flight", 0), final("requests_per_minute", 1), (429, {})])
def test_what_no_shorter_list_would_help_ends_the_submit(error: Any) -> None:
    with answering(error) as (gateway, _), pytest.raises(RefusedError, match="full"):
        list(submissions.submit(gateway, lines(2), fitting=Fitting()))


def test_the_pieces_of_a_long_list_are_bulk_work_as_it_was() -> None:
    def sent(*given: Line, longest: int) -> list[Any]:
        return [(one.task or {}).get("priority") for group in Fitting(longest=longest).cut(given) for one in group]

    assert sent(*lines(101), longest=100) == ["bulk"] * 101
    assert sent(*lines(250), longest=101) == [None] * 250, "the gateway sees that they are long"
    assert sent(*lines(100), longest=50) == [None] * 100
    assert set(sent(*lines(101, priority="interactive"), longest=50)) == {"interactive"}
    repeatable = lines(101, request_id="request-1")
    assert set(sent(*repeatable, longest=50)) == {None}, "another body would be a conflict"


def test_more_prompts_than_a_key_may_have_in_flight_are_all_answered_once(up: Up, tollgate: Tollgate) -> None:
    where = {"TOLLGATE_DATA": str(up.data)}
    key = tollgate("keys", "create", "--project", "small", "--max-in-flight", "2", **where).stdout.strip()
    ended = tollgate("submit", "a", "b", "c", "--wait", "--json", "--key", key, **where)
    assert ended.code == 0, ended.stderr
    assert ended.stderr.count("takes lists of up to 2") == 1
    listed = tollgate("tasks", "list", "--json", "--key", key, **where).json_lines
    assert {task["id"] for task in listed} == {task["id"] for task in ended.json_lines}
    assert len(listed) == 3


def test_a_prompt_that_asks_for_more_than_a_minute_has_fails_alone(up: Up, tollgate: Tollgate, tmp_path: Path) -> None:
    where = {"TOLLGATE_DATA": str(up.data)}
    key = tollgate("keys", "create", "--project", "poor", "--tokens-per-minute", "1000", **where).stdout.strip()
    file = tmp_path / "prompts.jsonl"
    file.write_text("".join(json.dumps({"prompt": "hi", "max_tokens": most}) + "\n" for most in (200, 5_000, 200)))
    ended = tollgate("submit", "--file", str(file), "--model", "glm-4-air", "--key", key, **where)
    assert (ended.code, len(ended.stdout.splitlines())) == (1, 2)
    assert "prompts.jsonl:2: the request is too large for this key's limit of 1000 tokens per minute" in ended.stderr


def test_the_help_of_submit_says_that_it_waits_for_room(tollgate: Tollgate) -> None:
    shown = " ".join(tollgate("submit", "--help").stdout.replace("│", " ").split())
    assert "Where a limit of the key has no room, it waits" in shown
