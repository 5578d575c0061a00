"""tollgate batch: real commands on a real embedded gateway."""

from __future__ import annotations

import contextlib
import csv
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
def write(tmp_path: Path) -> Callable[..., str]:
    def save(*lines: Any, name: str = "prompts.jsonl") -> str:
        path = tmp_path / name
        path.write_text("".join((one if isinstance(one, str) else json.dumps(one)) + "\n" for one in lines))
        return str(path)

    return save


def call(custom_id: str, prompt: str, **more: Any) -> dict[str, Any]:
    """A line in OpenAI's form."""
    body = {"model": "glm-4-air", "messages": [{"role": "user", "content": prompt}], **more}
    return {"custom_id": custom_id, "method": "POST", "url": "/v1/chat/completions", "body": body}


def rows_of(path: str) -> list[Any]:
    return [json.loads(line) for line in Path(path).read_text().splitlines()]


def batch_id_of(ended: Ended) -> str:
    found = re.search(r"^batch (\S+):", ended.stderr, re.MULTILINE)
    assert found, ended.stderr
    return found[1]


def content(row: Any) -> str:
    text: str = row["response"]["body"]["choices"][0]["message"]["content"]
    return text


def test_run_writes_openais_lines_in_input_order_and_sums_up(client: Tollgate, write: Callable[..., str]) -> None:
    path = write(*(call(f"a-{i}", f"[[echo]]n{i}") for i in range(50)))
    ended = client("batch", "run", path, "--out", "out.jsonl")
    assert ended.code == 0, ended.stderr
    rows = rows_of("out.jsonl")
    assert [row["custom_id"] for row in rows] == [f"a-{i}" for i in range(50)]
    assert [content(row) for row in rows] == [f"n{i}" for i in range(50)]
    assert {(row["response"]["status_code"], row["error"]) for row in rows} == {(200, None)}
    assert re.search(r"^estimate: 50 lines; likely 0\.\d+ CNY \(0\.\d+ to 0\.\d+\)", ended.stderr, re.MULTILINE)
    assert re.search(r"^completed: 50 succeeded, 0 failed; \d+ tokens, cost 0\.\d+ CNY, \d", ended.stdout)
    assert not list(Path().glob("*.part"))


def test_lines_that_fail_or_are_invalid_are_told_and_the_rest_runs(client: Tollgate, write: Callable[..., str]) -> None:
    path = write(
        call("good", "[[echo]]fine"),
        "{broken",
        call("hot", "x", temperature=7),
        call("good", "twice"),
        call("blocked", "[[fault:1301]]"),
        call("who", "x", model="no-such-model"),
    )
    ended = client("batch", "run", path, "--out", "out.jsonl")
    assert ended.code == 1
    rows = rows_of("out.jsonl")
    assert len(rows) == 6
    assert [row["error"] is None and row["response"]["status_code"] == 200 for row in rows] == [True, *[False] * 5]
    assert ended.stdout.startswith("completed: 1 succeeded, 1 failed, 4 invalid;")
    table = {re.split(r"\s{2,}", line.strip())[1]: line for line in ended.stdout.splitlines()[4:] if line.strip()}
    assert set(table) == {
        "invalid_json_line", "invalid_value", "duplicate_custom_id", "1301", "model_not_found",
    }  # fmt: skip
    assert re.search(r"1 +invalid_json_line +2 +the line is not JSON", table["invalid_json_line"])
    assert f"tollgate batch retry {batch_id_of(ended)}" in ended.stderr


def test_a_strict_batch_with_a_bad_line_fails_whole_and_is_exit_code_2(
    client: Tollgate, write: Callable[..., str]
) -> None:
    path = write(call("a", "x"), "{broken")
    ended = client("batch", "run", path, "--strict", "--json")
    assert ended.code == 2
    batch = ended.json
    assert (batch["state"], batch["usage"]["total_tokens"]) == ("failed", 0)
    assert batch["errors"][0]["line"] == 2


def test_rows_of_a_csv_become_prompts_and_their_ids_come_back(client: Tollgate, tmp_path: Path) -> None:
    Path("rows.csv").write_text('id,text\nx-1,"two\nlines"\nx-2,third\n')
    template = "[[echo]]{text} {{ok}}"
    ended = client(
        "batch", "run", "rows.csv", "--template", template, "--id-column", "id", "--model", "glm-4-air", "-o", "o.jsonl"
    )
    assert ended.code == 0, ended.stderr
    assert {row["custom_id"]: content(row) for row in rows_of("o.jsonl")} == {
        "x-1": "two\nlines {ok}",
        "x-2": "third {ok}",
    }


def test_a_bad_template_is_told_before_anything_is_uploaded(client: Tollgate) -> None:
    Path("rows.csv").write_text("id,text\n1,a\n")
    before = client("files", "list", "--all", "--json").stdout
    ended = client("batch", "run", "rows.csv", "--template", "{txet}")
    assert ended.code == 2
    assert "there is no column 'txet'; the columns are 'id', 'text'" in ended.stderr
    assert client("files", "list", "--all", "--json").stdout == before


def test_prompts_come_from_a_pipe(up: Up) -> None:
    ended = subprocess.run(
        [BIN / "tollgate", "batch", "run", "-", "--json"],
        input="[[echo]]a\n\n[[echo]]b\n",
        env={**clean_environment(), "TOLLGATE_DATA": str(up.data)},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    batch = json.loads(ended.stdout)
    assert (batch["name"], batch["counts"]["succeeded"]) == ("stdin", 2)


def test_options_say_what_lines_do_not(client: Tollgate, write: Callable[..., str]) -> None:
    label = f"test-{uuid.uuid4().hex[:12]}"
    path = write("[[tokens:50]]", name="prompts.txt")
    ended = client(
        *("batch", "run", path, "--model", "glm-4-air", "--max-tokens", "3", "--label", label, "--name", "mine"),
        *("--metadata", "team=search", "--priority", "interactive", "--window", "2h", "--max-cost", "1.50", "--json"),
    )
    batch = ended.json
    assert ended.code == 0, ended.stderr
    assert batch["usage"]["completion_tokens"] == 3
    told = {name: batch[name] for name in ("name", "metadata", "priority", "max_cost")}
    assert told == {"name": "mine", "metadata": {"team": "search"}, "priority": "interactive", "max_cost": "1.5"}
    [task] = client("tasks", "list", "--batch", batch["id"], "--json").json_lines
    assert (task["label"], task["custom_id"], task["model"]) == (label, "line-1", "glm-4-air")


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--via", "teleport"), "via"),
        (("--window", "soon"), "completion_window"),
        (("--max-cost", "much"), "max_cost"),
        (("--param", "temperature=9"), "temperature"),
        (("--out", "prompts.txt"), "is there already; --force replaces it"),
        (("--out", "nowhere/out.jsonl"), "cannot write"),
        (("--out", "o.jsonl", "--detach"), "--detach"),
        (("--out", "o.jsonl", "--order", "random"), "--order"),
    ],
)
def test_wrong_options_are_exit_code_2_and_run_nothing(
    client: Tollgate, write: Callable[..., str], options: tuple[str, ...], told: str
) -> None:
    path = write("x", name="prompts.txt")
    before = client("batch", "list", "--all", "--json").stdout
    ended = client("batch", "run", path, *options)
    assert ended.code == 2, ended.stderr
    assert told in ended.stderr
    assert Path("prompts.txt").read_text() == "x\n"
    assert client("batch", "list", "--all", "--json").stdout == before


def test_detached_batches_are_listed_shown_and_attached_to(client: Tollgate, write: Callable[..., str]) -> None:
    path = write("[[echo]]a", "[[echo]]b", name="prompts.txt")
    detached = client("batch", "run", path, "--detach", "--no-estimate")
    assert detached.code == 0
    batch_id = str(uuid.UUID(detached.stdout.strip()))
    assert client("batch", "attach", batch_id, "--out", "out.jsonl").code == 0
    assert [content(row) for row in rows_of("out.jsonl")] == ["a", "b"]
    shown = client("batch", "status", batch_id)
    assert shown.code == 0
    assert re.search(r"^lines +2 of 2 ended: 2 succeeded, 0 failed$", shown.stdout, re.MULTILINE)
    listed = client("batch", "list", "--all", "--json", "--state", "completed").json_lines
    assert batch_id in {one["id"] for one in listed}
    assert client("batch", "attach", batch_id, "--out", "out.jsonl").code == 2
    assert client("batch", "attach", batch_id, "--out", "out.jsonl", "--force").code == 0


def test_a_batch_is_paused_resumed_and_cancelled(client: Tollgate, write: Callable[..., str]) -> None:
    path = write(*(f"[[latency:20]]{i}" for i in range(3)), name="prompts.txt")
    batch_id = client("batch", "run", path, "--detach").stdout.strip()
    assert client("batch", "pause", batch_id).stdout.startswith(f"{batch_id}  paused (")
    assert f"tollgate batch resume {batch_id}" in client("batch", "status", batch_id).stdout
    resumed = client("batch", "resume", batch_id, "--max-cost", "9", "--json")
    assert (resumed.json["paused"], resumed.json["max_cost"]) == (None, "9")
    cancelled = client("batch", "cancel", batch_id, str(uuid.uuid4()), "../../keys")
    assert cancelled.code == 1
    assert cancelled.stdout.startswith(batch_id)
    assert len(cancelled.stderr.splitlines()) == 2
    ended = client("batch", "attach", batch_id)
    assert ended.code == 1
    assert ended.stdout.startswith("cancelled: 0 succeeded, 0 failed, 3 cancelled;")
    again = client("batch", "pause", batch_id)
    assert (again.code, again.stdout) == (1, "")
    assert "there is nothing to pause" in again.stderr


def test_a_batch_is_deleted_after_its_end(client: Tollgate, write: Callable[..., str]) -> None:
    path = write("[[latency:20]]x", name="prompts.txt")
    batch_id = client("batch", "run", path, "--detach", "--no-estimate").stdout.strip()
    early = client("batch", "delete", batch_id)
    assert (early.code, early.stdout) == (1, "")
    assert "cancel it first" in early.stderr
    client("batch", "cancel", batch_id)
    client("batch", "attach", batch_id)
    assert client("batch", "delete", batch_id).stdout == f"{batch_id}  deleted\n"
    assert client("batch", "status", batch_id).code == 1
    again = client("batch", "delete", batch_id, "--json")
    assert (again.code, again.stdout) == (1, "")


def test_a_pause_says_why_and_what_to_type(up: Up, client: Tollgate, write: Callable[..., str]) -> None:
    path = write("x", name="prompts.txt")
    batch_id = client("batch", "run", path, "--model", "glm-4-air", "--max-cost", "0.000001", "--detach").stdout.strip()
    environ = {**clean_environment(), "TOLLGATE_DATA": str(up.data)}
    with subprocess.Popen(
        [str(BIN / "tollgate"), "batch", "attach", batch_id], env=environ, stderr=subprocess.PIPE, text=True
    ) as attached:
        assert attached.stderr
        told = attached.stderr.readline()
        client("batch", "resume", batch_id, "--max-cost", "1")
        assert attached.wait(60) == 0
    assert told.startswith("paused: ")
    assert f"tollgate batch resume {batch_id} --max-cost AMOUNT" in told


def test_failed_lines_are_tried_again(client: Tollgate, write: Callable[..., str]) -> None:
    path = write("[[echo]]fine", "[[fault:once:1301]][[echo]]at last", name="prompts.txt")
    first = client("batch", "run", path, "--model", "glm-4-air")
    assert first.code == 1
    batch_id = batch_id_of(first)
    assert client("batch", "retry", batch_id).code == 0
    ended = client("batch", "attach", batch_id, "--out", "out.jsonl")
    assert ended.code == 0, ended.stdout
    assert [content(row) for row in rows_of("out.jsonl")] == ["fine", "at last"]


def test_ctrl_c_leaves_the_batch_running_and_says_what_to_type(
    up: Up, client: Tollgate, write: Callable[..., str]
) -> None:
    path = write("[[latency:20]]", name="prompts.txt")
    command = [str(BIN / "tollgate"), "batch", "run", path, "--out", "out.jsonl"]
    environ = {**clean_environment(), "TOLLGATE_DATA": str(up.data)}
    with subprocess.Popen(command, env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as running:
        assert running.stderr
        found = None
        while found is None:
            line = running.stderr.readline()
            assert line, "it ended by itself"
            found = re.match(r"batch (\S+):", line)
        running.send_signal(signal.SIGINT)
        stdout, stderr = running.communicate(timeout=20)
    assert (running.returncode, stdout) == (130, "")
    assert f"tollgate batch attach {found[1]}" in stderr
    assert f"tollgate batch cancel {found[1]}" in stderr
    assert not list(Path().glob("out.jsonl*"))
    assert client("batch", "status", found[1], "--json").json["state"] in ("validating", "in_progress")
    assert client("batch", "cancel", found[1]).code == 0


def test_ctrl_c_during_the_upload_runs_nothing(up: Up, tmp_path: Path) -> None:
    path = tmp_path / "pipe.jsonl"
    os.mkfifo(path)
    command = [str(BIN / "tollgate"), "batch", "run", str(path), "--out", str(tmp_path / "out.jsonl")]
    environ = {**clean_environment(), "TOLLGATE_DATA": str(up.data)}
    with subprocess.Popen(command, env=environ, stderr=subprocess.PIPE, text=True) as running:
        writing = os.open(path, os.O_WRONLY)  # waits for the reader
        running.send_signal(signal.SIGINT)
        _, stderr = running.communicate(timeout=20)
    os.close(writing)
    assert (running.returncode, stderr) == (130, "interrupted; nothing was run\n")
    assert not list(tmp_path.glob("out.jsonl*"))


def test_a_terminal_sees_a_bar(up: Up, write: Callable[..., str]) -> None:
    path = write(*(f"[[latency:1.5]]{i}" for i in range(3)), name="prompts.txt")
    reading, writing = os.openpty()
    environ = {**clean_environment(), "TOLLGATE_DATA": str(up.data), "TERM": "xterm", "COLUMNS": "160"}
    command = [str(BIN / "tollgate"), "batch", "run", path]
    with subprocess.Popen(command, env=environ, stdout=subprocess.PIPE, stderr=writing) as running:
        os.close(writing)
        drawn = b""
        with contextlib.suppress(OSError):  # how a terminal ends whose other side is closed
            while octets := os.read(reading, 65_536):
                drawn += octets
    os.close(reading)
    assert running.returncode == 0
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", drawn.decode())
    assert "uploading" in text
    assert re.search(r"in_progress [━╸╺ ]+ [0-3]/3 0 failed · \d+ tokens · 0\.00 CNY", text)


def test_an_estimate_has_every_way_and_its_assumptions_and_keeps_nothing(
    client: Tollgate, write: Callable[..., str]
) -> None:
    path = write(call("a", "x" * 350, max_tokens=100), call("b", "y"), "{broken")
    before = client("files", "list", "--all", "--json").stdout
    ended = client("batch", "estimate", path)
    assert ended.code == 1
    assert re.search(r"^ *glm-4-air +zhipu/glm-4-air +2 +[\d,]+ +[\d,]+ +[\d,]+ +[\d,]+", ended.stdout, re.MULTILINE)
    assert re.search(r"^ *direct \* +0\.0\d+ +0\.0\d+ +0\.0\d+", ended.stdout, re.MULTILINE)
    assert re.search(r"^ *upstream_batch +0\.0\d+ +0\.0\d+ +0\.0\d+", ended.stdout, re.MULTILINE)
    assert "Taken for granted:" in ended.stdout
    assert "line 3: the line is not JSON" in ended.stderr
    assert client("files", "list", "--all", "--json").stdout == before
    good = write(call("a", "x"))
    told = client("batch", "estimate", good, "--json", "--max-cost", "0.0000001")
    assert (told.code, told.json["fits_max_cost"]["low"], told.json["lines"]) == (1, False, 1)
    assert client("batch", "estimate", good, "--max-cost", "100").code == 0


def test_files_are_listed_and_deleted(client: Tollgate, write: Callable[..., str]) -> None:
    batch = client("batch", "run", write("x", name="prompts.txt"), "--json").json
    file_id = batch["input_file_id"]
    listed = client("files", "list", "--purpose", "batch", "--all")
    assert re.search(rf"{file_id} +prompts.txt +batch +1 +", listed.stdout)
    assert client("files", "delete", file_id).stdout == f"{file_id}  removed\n"
    again = client("files", "delete", file_id)
    assert (again.code, again.stdout) == (1, "")
    assert again.stderr.startswith(f"{file_id}: ")


def test_lines_are_appended_as_they_finish_and_gone_on_with_where_the_file_ends(
    client: Tollgate, write: Callable[..., str]
) -> None:
    path = write("[[latency:6]][[echo]]slow", "[[echo]]a", "[[echo]]b", "{broken", name="prompts.txt")
    batch_id = client("batch", "run", path, "--detach", "--no-estimate").stdout.strip()
    so_far = ""
    while so_far.count("\n") < 2:
        so_far = client("batch", "results", batch_id, "--order", "finished").stdout
    assert "slow" not in so_far
    Path("out.jsonl").write_text(so_far + so_far.splitlines()[0][:50])  # as a writer that was killed leaves it
    ended = client("batch", "attach", batch_id, "--out", "out.jsonl", "--order", "finished")
    assert ended.code == 0, ended.stderr
    assert Path("out.jsonl").read_text().startswith(so_far)
    assert sorted(row["custom_id"] for row in rows_of("out.jsonl")) == [f"line-{i}" for i in range(1, 5)]
    whole = Path("out.jsonl").read_text()
    assert client("batch", "attach", batch_id, "--out", "out.jsonl", "--order", "finished").code == 0
    assert Path("out.jsonl").read_text() == whole


def test_a_file_of_something_else_is_not_gone_on_with(client: Tollgate, write: Callable[..., str]) -> None:
    path = write("a", name="prompts.txt")
    first = batch_id_of(client("batch", "run", path, "--out", "first.jsonl", "--order", "finished"))
    second = batch_id_of(client("batch", "run", path, "--out", "second.jsonl"))
    other = client("batch", "attach", second, "--out", "first.jsonl", "--order", "finished")
    assert other.code == 2
    assert "first.jsonl holds results of another batch; --force replaces it" in other.stderr
    whole = client("batch", "attach", second, "--out", "second.jsonl", "--order", "finished")
    assert whole.code == 2
    assert "no file that --order finished was writing" in whole.stderr
    assert client("batch", "attach", first, "--out", "second.jsonl", "--order", "finished", "--force").code == 0
    assert Path("second.jsonl").read_text() == Path("first.jsonl").read_text()


def test_results_are_fetched_in_each_form(client: Tollgate, write: Callable[..., str]) -> None:
    path = write(call("a", "[[echo]]one, two"), "{broken", call("c", "[[fault:1301]]"))
    batch_id = batch_id_of(client("batch", "run", path))
    assert [row["custom_id"] for row in client("batch", "results", batch_id).json_lines] == ["a", None, "c"]
    failed = client("batch", "results", batch_id, "--which", "failed", "--include-input").json_lines
    assert [row["line"] for row in failed] == [2, 3]
    assert failed[1]["input"]["messages"][0]["content"] == "[[fault:1301]]"
    assert client("batch", "results", batch_id, "--out", "o.csv").code == 0
    with Path("o.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["custom_id"], row["answer"]) for row in rows] == [("a", "one, two"), ("", ""), ("c", "")]
    assert client("batch", "results", batch_id, "--out", "o.csv").code == 2
    after = client("batch", "results", batch_id, "--format", "jsonl", "--after", "1").json_lines
    assert [row["line"] for row in after] == [2, 3]
    wrong = client("batch", "results", batch_id, "--format", "xml")
    assert (wrong.code, wrong.stdout) == (2, "")
    missing = client("batch", "results", str(uuid.uuid4()), "--out", "n.jsonl")
    assert missing.code == 1
    assert not list(Path().glob("n.jsonl*"))
