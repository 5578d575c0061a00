"""Waiting, on a small real HTTP server that answers as a gateway in trouble does."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from tollgate.cli import submissions, waiting
from tollgate.cli.client import Gateway
from tollgate.cli.connection import Target
from tollgate.cli.exits import GatewayUnreachableError, RefusedError
from tollgate.cli.fitting import Fitting
from tollgate.cli.prompts import Line

Answer = tuple[int, Any] | None
"""Status and body; None hangs up without an answer."""


class Scripted:
    """A server that gives its answers in turn, the last one for ever, and keeps what it was asked."""

    def __init__(self) -> None:
        self.answers: list[Answer] = []
        self.asked: list[str] = []
        script = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.rfile.read(int(self.headers.get("Content-Length", 0)))
                script.asked.append(self.path)
                answer = script.answers.pop(0) if len(script.answers) > 1 else script.answers[0]
                if answer is None:
                    self.close_connection = True
                    return
                body = json.dumps(answer[1]).encode()
                self.send_response(answer[0])
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            do_POST = do_GET  # noqa: N815  # the base class's name

            def log_message(self, *_arguments: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"


@pytest.fixture
def scripted() -> Iterator[Scripted]:
    made = Scripted()
    thread = threading.Thread(target=made.server.serve_forever, args=(0.01,))
    thread.start()
    yield made
    made.server.shutdown()
    thread.join()
    made.server.server_close()


@pytest.fixture
def gateway(scripted: Scripted) -> Iterator[Gateway]:
    target = Target(url=scripted.url, url_from="test", key="a.b", key_from="test")
    with Gateway(target, sleep=lambda _seconds: None) as made:
        yield made


def listed(*tasks: tuple[str, str]) -> Answer:
    return 200, {"data": [{"id": name, "status": status} for name, status in tasks], "missing": []}


def names(found: Iterator[Any]) -> list[str]:
    return [task["id"] for task in found]


def no_sleep(_seconds: float) -> None:
    pass


def test_each_task_comes_once_and_what_has_ended_is_not_asked_again(scripted: Scripted, gateway: Gateway) -> None:
    scripted.answers = [listed(("a", "PROCESSING"), ("b", "SUCCESS")), listed(("a", "FAIL"))]
    assert names(waiting.until_ended(gateway, ["a", "b", "a"], sleep=no_sleep)) == ["b", "a"]
    assert [parse_qs(urlsplit(path).query)["id"] for path in scripted.asked] == [["a,b"], ["a"]]


def test_an_outage_is_waited_out(scripted: Scripted, gateway: Gateway) -> None:
    trouble: list[Answer] = [None, (500, {}), (502, "<html>"), *[(503, {"error": {"type": "unavailable"}})] * 9]
    scripted.answers = [*trouble, listed(("a", "SUCCESS"))]
    assert names(waiting.until_ended(gateway, ["a"], sleep=no_sleep)) == ["a"]


def test_a_refused_key_ends_the_waiting(scripted: Scripted, gateway: Gateway) -> None:
    scripted.answers = [(401, {"error": {"type": "unauthorized", "message": "revoked"}})]
    with pytest.raises(RefusedError, match="refuses the key of test: revoked"):
        names(waiting.until_ended(gateway, ["a"], sleep=no_sleep))


def test_many_ids_are_asked_for_in_short_requests(scripted: Scripted, gateway: Gateway) -> None:
    ids = [f"{number:036}" for number in range(400)]
    scripted.answers = [listed(*((one, "SUCCESS") for one in ids[start : start + 150])) for start in (0, 150, 300)]
    assert names(waiting.until_ended(gateway, ids, sleep=no_sleep)) == ids
    assert max(len(path) for path in scripted.asked) < 8_000


def line(**task: Any) -> Line:
    return Line(place="f:1", number=1, task={"prompt": "hi", **task})


def test_a_lost_answer_is_asked_for_again_only_with_a_request_id(scripted: Scripted, gateway: Gateway) -> None:
    scripted.answers = [None, None, (202, {"data": [{"id": "t"}]})]
    (done,) = submissions.submit(gateway, [line(request_id="request-1")], fitting=Fitting())
    assert done.accepted == {"id": "t"}
    scripted.answers = [None, (202, {"data": [{"id": "t"}]})]
    with pytest.raises(GatewayUnreachableError, match="may have accepted f:1 all the same"):
        list(submissions.submit(gateway, [line()], fitting=Fitting()))


def test_an_unavailable_gateway_is_asked_again(scripted: Scripted, gateway: Gateway) -> None:
    scripted.answers = [(503, {}), (503, {}), (202, {"data": [{"id": "t"}]})]
    (done,) = submissions.submit(gateway, [line()], fitting=Fitting())
    assert done.accepted == {"id": "t"}
