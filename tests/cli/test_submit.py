"""submit, get, tasks, usage: real commands on a real embedded gateway."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.processes import BIN, clean_environment
from tests.cli.conftest import Ended, Tollgate, Up


@pytest.fixture
def client(up: Up, tollgate: Tollgate) -> Tollgate:
    return lambda *arguments, **more: tollgate(*arguments, **{"TOLLGATE_DATA": str(up.data), **more})


@pytest.fixture
def label() -> str:
    return f"test-{uuid.uuid4().hex[:12]}"


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., str]:
    def save(*lines: Any, name: str = "prompts.jsonl") -> str:
        path = tmp_path / name
        path.write_text("".join((one if isinstance(one, str) else json.dumps(one)) + "\n" for one in lines))
        return str(path)

    return save


def answer(task: Any) -> str:
    assert task["status"] == "SUCCESS", task
    content: str = task["result"]["choices"][0]["message"]["content"]
    return content


def test_without_wait_the_ids_are_printed_one_a_line(client: Tollgate) -> None:
    ended = client("submit", "a", "b", "c")
    assert ended.code == 0
    assert len({uuid.UUID(line) for line in ended.stdout.splitlines()}) == 3


def test_with_stream_the_answer_is_shown_as_it_is_written_and_again_from_its_start(client: Tollgate) -> None:
    ended = client("submit", "[[echo]]第一行\nthe second", "--stream", "--model", "glm-4-air")
    assert (ended.code, ended.stdout) == (0, "第一行\nthe second\n"), ended.stderr
    told = re.search(r"^succeeded; \d+\+\d+ tokens, cost 0\.\d+ CNY; task (\S+)$", ended.stderr, re.MULTILINE)
    assert told
    again = client("get", told[1], "--stream", "--json")
    events = [json.loads(line) for line in again.stdout.splitlines()]
    assert [event["event"] for event in events] == ["delta", "end"]
    assert events[0]["data"]["content"] == "第一行\nthe second"


def test_with_stream_a_failure_says_why(client: Tollgate) -> None:
    ended = client("submit", "[[fault:1301]]", "--stream", "--model", "glm-4-air")
    assert (ended.code, ended.stdout) == (1, "")
    assert "1301" in ended.stderr
    assert "what to do" in ended.stderr


@pytest.mark.parametrize("more", [("b", "--stream"), ("--stream", "--wait"), ("--stream", "--out", "x.jsonl")])
def test_stream_shows_one_answer_by_itself(client: Tollgate, more: tuple[str, ...]) -> None:
    ended = client("submit", "a", *more)
    assert ended.code == 2
    assert "--stream" in ended.stderr
    assert client("get", "a", "b", "--stream").code == 2


def test_a_stream_of_no_task_is_refused(client: Tollgate) -> None:
    ended = client("get", str(uuid.uuid4()), "--stream")
    assert ended.code == 1
    assert "no task" in ended.stderr


def test_with_wait_the_answers_and_the_sum_are_shown(client: Tollgate) -> None:
    ended = client("submit", "[[echo]]first answer", "[[echo]]第二个回答", "--wait", "--model", "glm-4-air")
    assert ended.code == 0, ended.stderr
    assert "first answer" in ended.stdout
    assert "第二个回答" in ended.stdout
    last = ended.stdout.splitlines()[-1]
    assert re.match(r"2 succeeded, 0 failed; \d+ tokens, cost 0\.\d+ CNY, \d+\.\d s$", last)
    assert "\x1b" not in ended.stdout


def test_json_is_one_task_a_line_in_the_order_given_and_nothing_else(client: Tollgate) -> None:
    prompts = [f"[[echo]]n{i}" for i in range(25)]
    tasks = client("submit", *prompts, "--wait", "--json").json_lines
    assert [answer(task) for task in tasks] == [f"n{i}" for i in range(25)]
    assert [task["line"] for task in tasks] == list(range(1, 26))


def test_options_reach_the_upstream(client: Tollgate) -> None:
    options = ("--model", "glm-4-air", "--max-tokens", "3", "--param", 'metadata={"a": [1]}', "--priority", "bulk")
    (task,) = client("submit", "[[tokens:50]]", *options, "--wait", "--json").json_lines
    assert (task["model"], task["metadata"], task["priority"]) == ("glm-4-air", {"a": [1]}, "bulk")
    assert task["usage"]["completion_tokens"] == 3


def test_a_bad_line_and_a_refused_one_fail_alone(client: Tollgate, write: Callable[..., str]) -> None:
    path = write(
        {"custom_id": "good-1", "prompt": "[[echo]]one"},
        "{broken",
        {"custom_id": "hot", "prompt": "x", "temperature": 7},
        {"custom_id": "who", "prompt": "x", "model": "no-such-model"},
        {
            "custom_id": "batch",
            "url": "/v4/chat/completions",
            "body": {"model": "glm-4-air", "messages": [{"role": "user", "content": "[[echo]]two"}]},
        },
        {"custom_id": "long", "prompt": "x", "model": "glm-4.5-air", "max_tokens": 99999999},
        {"custom_id": "failing", "prompt": "[[fault:1301]]"},
    )
    ended = client("submit", "--file", path, "--wait", "--out", "out.jsonl")
    assert ended.code == 1
    places = {line.partition(": ")[0].rpartition(":")[2]: line for line in ended.stderr.splitlines()}
    assert set(places) == {"2", "3", "4", "6"}
    assert "not JSON" in places["2"]
    assert "a number from 0 to 1" in places["3"]
    assert "unknown model 'no-such-model'" in places["4"]
    assert "max_tokens" in places["6"]
    rows = [json.loads(line) for line in Path("out.jsonl").read_text().splitlines()]
    assert [row["line"] for row in rows] == [1, 2, 3, 4, 5, 6, 7]
    assert [row["status"] for row in rows] == ["SUCCESS", "FAIL", "FAIL", "FAIL", "SUCCESS", "FAIL", "FAIL"]
    assert [row["error"]["code"] for row in rows if row["error"]] == ["refused"] * 4 + ["1301"]
    assert (answer(rows[0]), answer(rows[4]), rows[4]["custom_id"]) == ("one", "two", "batch")
    assert "2 succeeded, 1 failed, 4 refused" in ended.stdout


def test_a_request_id_makes_a_submit_repeatable(client: Tollgate) -> None:
    request_id = f"request-{uuid.uuid4().hex}"
    first = client("submit", "a", "--request-id", request_id)
    second = client("submit", "a", "--request-id", request_id)
    other = client("submit", "b", "--request-id", request_id)
    assert (first.code, second.code, other.code) == (0, 0, 1)
    assert first.stdout == second.stdout
    assert "already used, with another body" in other.stderr


def test_stdin_is_text_or_json_lines(up: Up) -> None:
    def piped(text: str, *arguments: str) -> list[str]:
        ended = subprocess.run(
            [BIN / "tollgate", "submit", *arguments, "--json"],
            input=text,
            env={**clean_environment(), "TOLLGATE_DATA": str(up.data)},
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        return [answer(json.loads(line)) for line in ended.stdout.splitlines()]

    assert piped("[[echo]]a\n\n[[echo]]b", "-", "--wait") == ["a", "b"]
    assert piped('{"prompt": "[[echo]]c"}\n', "--file", "-", "--wait") == ["c"]


def test_many_lines_go_in_lists_of_a_thousand(client: Tollgate, label: str, write: Callable[..., str]) -> None:
    path = write(*(f"[[echo]]{i}" for i in range(1_203)), name="prompts.txt")
    ended = client("submit", "--file", path, "--label", label, "--wait", "--json")
    failed = [task for task in ended.json_lines if task["status"] != "SUCCESS"]
    assert (ended.code, failed) == (0, []), ended.stderr
    assert [answer(task) for task in ended.json_lines] == [str(i) for i in range(1_203)]
    listed = client("tasks", "list", "--label", label, "--all", "--json").json_lines
    assert {task["id"] for task in listed} == {task["id"] for task in ended.json_lines}


def test_ctrl_c_says_that_the_tasks_run_on(up: Up, label: str, tollgate: Tollgate) -> None:
    environ = {**clean_environment(), "TOLLGATE_DATA": str(up.data)}
    command = [str(BIN / "tollgate"), "submit", "[[latency:30]]", "[[echo]]done", "--label", label, "--wait", "--json"]
    with subprocess.Popen(command, env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as waiting:
        states: list[str] = []
        while "succeeded" not in states or "running" not in states:
            found = tollgate("tasks", "list", "--label", label, "--json", TOLLGATE_DATA=str(up.data))
            states = [task["state"] for task in found.json_lines]
        waiting.send_signal(signal.SIGINT)
        stdout, stderr = waiting.communicate(timeout=20)
    assert waiting.returncode == 130
    slow, _ = (json.loads(line) for line in stdout.splitlines())
    assert f"tollgate get {slow['id']}" in stderr
    assert re.search(r"[12] tasks? not ended yet", stderr)  # the notice of the other may still be on its way
    cancelled = tollgate("tasks", "cancel", slow["id"], TOLLGATE_DATA=str(up.data))
    assert cancelled.code == 0
    ended = tollgate("get", slow["id"], "--wait", "30", TOLLGATE_DATA=str(up.data))
    assert ended.code == 1
    assert "FAIL (cancelled)" in ended.stdout
    assert "uncertain" in ended.stdout


def test_a_wrong_key_is_exit_code_3_and_names_its_source(client: Tollgate) -> None:
    ended = client("submit", "a", TOLLGATE_KEY="nobody.secret")
    assert ended.code == 3
    assert "refuses the key of TOLLGATE_KEY" in ended.stderr
    assert "secret" not in ended.stderr


def test_what_is_no_gateway_is_recognised(client: Tollgate, up: Up) -> None:
    simulator = re.search(r"http://[\d.:]+(?=/api)", up.server.output)
    assert simulator is not None
    ended = client("usage", TOLLGATE_URL=simulator.group())
    assert ended.code == 1
    assert "is there a Tollgate gateway at this address?" in ended.stderr


def test_get_shows_answer_attempts_and_cost(client: Tollgate) -> None:
    (task,) = client(
        "submit", "[[fault:once:500]][[echo]]at last", "--model", "glm-4-air", "--wait", "--json"
    ).json_lines
    shown = client("get", task["id"])
    assert shown.code == 0, shown.stdout
    assert shown.stdout.rstrip().endswith("at last")
    assert re.search(r"1 +zhipu/glm-4-air +uncertain .*0 to 0\.0", shown.stdout)
    assert re.search(r"2 +zhipu/glm-4-air +succeeded", shown.stdout)
    assert re.search(r"cost +0\.\d+ CNY", shown.stdout)


def test_get_says_what_to_do_about_a_failure(client: Tollgate) -> None:
    ended = client("submit", "[[fault:1301]]", "--wait", "--json")
    assert ended.code == 1
    shown = client("get", ended.json_lines[0]["id"])
    assert shown.code == 1
    assert "1301" in shown.stdout
    assert "reword the prompt" in shown.stdout


def test_get_of_several_is_a_table_and_tells_the_missing(client: Tollgate) -> None:
    ids = [task["id"] for task in client("submit", "a", "b", "--wait", "--json").json_lines]
    ended = client("get", *ids, "nonsense", str(uuid.uuid4()))
    assert ended.code == 1
    assert all(task_id in ended.stdout for task_id in ids)
    assert ended.stderr.count("no task") == 2


def test_the_list_is_filtered_and_paged(client: Tollgate, label: str) -> None:
    client("submit", *"abcde", "--label", label, "--wait")
    first = client("tasks", "list", "--label", label, "--limit", "2", "--json")
    assert len(first.json_lines) == 2
    after = re.search(r"--after (\S+),", first.stderr)
    assert after is not None
    rest = client("tasks", "list", "--label", label, "--after", after.group(1), "--json")
    assert len(rest.json_lines) == 3
    assert client("tasks", "list", "--label", label, "--state", "FAIL").stderr == "no task fits\n"
    wrong = client("tasks", "list", "--state", "odd")
    assert wrong.code == 2
    assert "PROCESSING" in wrong.stderr


def test_cancelling_what_ended_changes_nothing_and_what_is_not_there_is_told(client: Tollgate) -> None:
    (task,) = client("submit", "a", "--wait", "--json").json_lines
    ended = client("tasks", "cancel", task["id"], "../../keys")
    assert ended.code == 1
    assert ended.stdout == f"{task['id']}  succeeded\n"
    assert ended.stderr.startswith("../../keys: ")


def test_a_deleted_task_is_shown_without_its_texts_and_what_runs_is_told(client: Tollgate) -> None:
    (task,) = client("submit", "[[echo]]SECRET", "--wait", "--json").json_lines
    (runs,) = client("submit", "[[latency:60]]", "--json").json_lines
    ended = client("tasks", "delete", task["id"], runs["id"], "nothing")
    assert (ended.code, ended.stdout) == (1, f"{task['id']}  erased\n")
    assert "cancel it first" in ended.stderr
    assert "no task 'nothing'" in ended.stderr
    shown = client("get", task["id"])
    assert "kept no longer" in shown.stdout
    assert "SECRET" not in shown.stdout
    assert client("tasks", "delete", task["id"], "--json").json_lines[0]["cost"] == task["cost"]
    client("tasks", "cancel", runs["id"])


def usage_of(ended: Ended, label: str) -> Any:
    return next(group for group in ended.json["data"] if group["label"] == label)


def test_usage_has_a_total_a_currency_and_footnotes_where_something_is_open(client: Tollgate, label: str) -> None:
    client("submit", "[[fault:once:500]]", "[[echo]]b", "--model", "glm-4-air", "--label", label, "--wait")
    found = usage_of(client("usage", "--by", "label", "--json"), label)
    assert (found["tasks"], found["attempts"], found["attempts_uncertain"]) == (2, 3, 1)
    table = client("usage", "--by", "label,model").stdout
    assert "cost CNY" in table
    assert re.search(r"(?m)^ total ", table)
    assert "perhaps billed all the same: up to 0.0" in table
    csv = client("usage", "--by", "label", "--project", "*", "--csv").stdout
    assert csv.startswith("label,tasks,")
    assert label in csv
    nothing = client("usage", "--from", "2020-01-01", "--to", "2020-02-01")
    assert nothing.stdout.startswith("nothing was used")


def test_models_are_listed_by_the_gateway(client: Tollgate) -> None:
    assert "glm-4-flash" in {model["id"] for model in client("models", "list", "--json").json}


def test_no_output_is_broken_by_a_reader_that_leaves(up: Up) -> None:
    environ = {**clean_environment(), "TOLLGATE_DATA": str(up.data)}
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "wb") as closed:
        ended = subprocess.run(
            [BIN / "tollgate", "models", "list", "--json"],
            env=environ,
            check=False,
            stdout=closed,
            stderr=subprocess.PIPE,
            timeout=60,
        )
    assert b"Traceback" not in ended.stderr
