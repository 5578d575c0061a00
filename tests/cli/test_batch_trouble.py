"""tollgate batch where gateways fail: on a small real HTTP server that answers as one in trouble does, and on a real
one that is stopped and started."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import pytest

from tests.acceptance.processes import Processes
from tests.cli.conftest import Ended, Tollgate
from tollgate.cli import event_stream
from tollgate.cli.batches import fetching, following, making, uploading

Answer = tuple[int, bytes] | None
"""Status and body; None hangs up without an answer."""
BATCH_ID = "01a20464-51f8-709a-b8cb-cc506b33e5ae"


def batch(**more: Any) -> dict[str, Any]:
    """As the gateway shows one that has ended well."""
    counts = dict.fromkeys(("invalid", "queued", "running", "failed", "cancelled", "expired"), 0)
    return {
        "id": BATCH_ID, "name": "p.txt", "state": "completed", "paused": None, "error": None, "errors": [],
        "counts": {**counts, "total": 3, "succeeded": 3}, "usage": {"total_tokens": 9}, "cost": "0.5",
        "possible_cost": None, "unpriced": 0, "currency": "CNY", "created_at": "2026-01-31T15:00:00Z",
        "ended_at": "2026-01-31T15:00:05Z", **more,
    }  # fmt: skip


def event(name: str, data: Any) -> bytes:
    return f"event: {name}\ndata: {json.dumps(data)}\n\n".encode()


class Scripted:
    """For each path its answers in turn, the last one for ever. Cut ones promise more than they send."""

    def __init__(self) -> None:
        self.answers: dict[str, list[Answer]] = {}
        self.cut: set[tuple[str, int]] = set()
        """Path and number of the answers that break off."""
        self.asked: list[tuple[str, bytes]] = []
        self.cursors: list[str | None] = []
        """That results were asked for after."""
        script = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                path, _, query = self.path.partition("?")
                if path.endswith("/results"):
                    script.cursors.append(parse_qs(query).get("after", [None])[0])
                script.asked.append((path, self._body()))
                number = len([one for one, _ in script.asked if one == path])
                answers = script.answers[path]
                answer = answers[min(number, len(answers)) - 1]
                self.close_connection = True
                if answer is None:
                    return
                self.send_response(answer[0])
                self.send_header("Content-Length", str(len(answer[1]) + ((path, number) in script.cut)))
                self.send_header("Connection", "close")  # or the next request may be on its way as this one closes
                self.end_headers()
                self.wfile.write(answer[1])

            do_GET = do_POST  # noqa: N815  # the base class's name

            def _body(self) -> bytes:
                if self.headers.get("Transfer-Encoding") != "chunked":
                    return self.rfile.read(int(self.headers.get("Content-Length", 0)))
                body = b""
                while size := int(self.rfile.readline(), 16):
                    body += self.rfile.read(size)
                    self.rfile.readline()
                self.rfile.readline()
                return body

            def log_message(self, *_arguments: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"

    def bodies(self, path: str) -> list[bytes]:
        return [body for one, body in self.asked if one == path]


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> Iterator[Scripted]:
    for module in (uploading, making, fetching, event_stream):
        monkeypatch.setattr(module, "AGAIN_S", 0)  # what is waited for stands in the script
    made = Scripted()
    made.answers = {
        "/files": [(201, b'{"id": "01a20464-51f8-709a-b8cb-cc506b33e5af"}')],
        "/batches": [(201, json.dumps(batch(state="validating")).encode())],
        f"/batches/{BATCH_ID}/events": [(200, event("end", batch()))],
        f"/batches/{BATCH_ID}/results": [(200, b'{"n": 1}\n{"n": 2}\n{"n": 3}\n')],
    }
    thread = threading.Thread(target=made.server.serve_forever, args=(0.01,))
    thread.start()
    yield made
    made.server.shutdown()
    thread.join()
    made.server.server_close()


@pytest.fixture
def run(scripted: Scripted, tollgate: Tollgate) -> Any:
    def of_prompts(*options: str) -> Ended:
        Path("p.txt").write_text("a\nb\nc\n")
        command = ("batch", "run", "p.txt", "--no-estimate", "--out", "o.jsonl", *options)
        return tollgate(*command, TOLLGATE_URL=scripted.url, TOLLGATE_KEY="id.secret")

    return of_prompts


UNAVAILABLE = (503, b'{"error": {"type": "unavailable", "message": "the database is away"}}')


@pytest.mark.parametrize("first", [UNAVAILABLE, None])
def test_an_upload_that_got_no_answer_is_sent_again_whole(scripted: Scripted, run: Any, first: Answer) -> None:
    scripted.answers["/files"].insert(0, first)
    assert run().code == 0
    once, again = scripted.bodies("/files")
    assert once == again
    assert [json.loads(line)["prompt"] for line in once.splitlines()] == ["a", "b", "c"]


def test_a_batch_whose_answer_was_lost_is_asked_for_under_the_same_request_id(scripted: Scripted, run: Any) -> None:
    scripted.answers["/batches"].insert(0, None)
    assert run().code == 0
    once, again = scripted.bodies("/batches")
    assert once == again
    assert json.loads(once)["request_id"].startswith("cli-")
    assert run("--force").code == 0
    assert json.loads(scripted.bodies("/batches")[2])["request_id"] != json.loads(once)["request_id"]


def test_events_that_are_cut_are_taken_up_and_the_outage_is_told_once(scripted: Scripted, run: Any) -> None:
    path = f"/batches/{BATCH_ID}/events"
    going_on = event("progress", batch(state="in_progress"))
    scripted.answers[path][:0] = [(200, going_on), None, UNAVAILABLE, (502, b"<html>"), (200, going_on)]
    scripted.cut = {(path, 1)}
    ended = run()
    assert ended.code == 0
    assert len(scripted.bodies(path)) == 6
    assert ended.stderr.count("does not answer") == 2  # four in a row are one outage


def test_results_that_are_cut_go_on_where_they_were(scripted: Scripted, run: Any) -> None:
    path = f"/batches/{BATCH_ID}/results"
    scripted.answers[path][:0] = [(200, b'{"n": 1}\n{"n"'), UNAVAILABLE]
    scripted.cut = {(path, 1)}
    ended = run()
    assert ended.code == 0, ended.stderr
    assert Path("o.jsonl").read_bytes() == b'{"n": 1}\n{"n": 2}\n{"n": 3}\n'


def finished(number: int, cursor: str) -> bytes:
    return json.dumps({"id": f"batch_req_{number}", "cursor": cursor}, separators=(",", ":")).encode() + b"\n"


def test_lines_that_are_told_again_as_they_finish_are_written_once(
    scripted: Scripted, run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(following, "EVERY_S", 0)  # with each event
    events, results = f"/batches/{BATCH_ID}/events", f"/batches/{BATCH_ID}/results"
    going_on = event("progress", batch(state="in_progress"))
    scripted.answers[events] = [(200, going_on + going_on + event("end", batch()))]
    scripted.answers[results] = [
        (200, finished(1, "1") + finished(2, "1")),
        (200, finished(2, "2") + finished(3, "3") + b'{"id": "batch_'),
        UNAVAILABLE,
        (200, finished(3, "3") + finished(5, "4") + finished(4, "4")),
        (200, finished(4, "5")),
    ]
    scripted.cut = {(results, 2)}
    ended = run("--order", "finished")
    assert ended.code == 0, ended.stderr
    told = [json.loads(line)["id"] for line in Path("o.jsonl").read_text().splitlines()]
    assert told == [f"batch_req_{number}" for number in (1, 2, 3, 5, 4)]
    assert scripted.cursors == [None, "1", "3", "3", "4"]


def test_a_refusal_is_not_repeated_and_leaves_no_file(scripted: Scripted, run: Any) -> None:
    scripted.answers["/batches"] = [(403, b'{"error": {"type": "forbidden", "message": "not with this key"}}')]
    ended = run()
    assert (ended.code, ended.stderr) == (3, "tollgate: not with this key\n")
    assert len(scripted.bodies("/batches")) == 1
    assert [one.name for one in Path().glob("*")] == ["p.txt"]


def test_results_that_are_refused_leave_the_batch_and_say_how_to_fetch_them(scripted: Scripted, run: Any) -> None:
    scripted.answers[f"/batches/{BATCH_ID}/results"] = [(401, b'{"error": {"type": "unauthorized", "message": "no"}}')]
    ended = run()
    assert ended.code == 3
    assert f"tollgate batch results {BATCH_ID} --out FILE" in ended.stderr
    assert not list(Path().glob("o.jsonl*"))


def test_an_attached_command_outlives_a_restart_of_the_gateway(tmp_path: Path, tollgate: Tollgate) -> None:
    processes = Processes(tmp_path)
    environment = {"TOLLGATE_DATA": str(tmp_path / "data")}
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        up = ("tollgate", "up", "--port", str(free.getsockname()[1]))
    try:
        server = processes.start(*up, environment=environment)
        server.wait_for("serves on")
        Path("p.txt").write_text("[[echo]]hello\n")
        command = ("batch", "run", "p.txt", "--model", "glm-4-air", "--max-cost", "0.0000001", "--out", "o.jsonl")
        run = processes.start("tollgate", *command, environment=environment)
        batch_id = run.wait_for(r"batch (\S+): 1 line")[1]
        run.wait_for("paused: ")
        assert server.stop() == 0
        run.wait_for("does not answer")
        processes.start(*up, environment=environment).wait_for("serves on")
        assert tollgate("batch", "resume", batch_id, "--max-cost", "1", **environment).code == 0
        assert run.wait_for_end(timeout_s=60) == 0
    finally:
        assert set(processes.stop_all()) == {0}
    [row] = map(json.loads, Path("o.jsonl").read_text().splitlines())
    assert row["response"]["body"]["choices"][0]["message"]["content"] == "hello"
