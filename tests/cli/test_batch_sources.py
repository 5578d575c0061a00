"""What is uploaded of a file: JSONL as it is, prompts and rows of CSV at the lines that they have there."""

from __future__ import annotations

import csv
import gzip
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.acceptance.processes import clean_environment
from tollgate.cli.batches import sources
from tollgate.cli.batches.sources import Columns, Source
from tollgate.cli.batches.templates import Template, TemplateError
from tollgate.cli.exits import BadFileError


def uploaded(path: Path, **columns: Any) -> bytes:
    return b"".join(Source(str(path), columns=Columns(**columns)).chunks())


def by_line(octets: bytes) -> dict[int, Any]:
    """Those that are not blank, by their number."""
    numbered = enumerate(octets.decode().split("\n"), start=1)
    return {number: json.loads(line) for number, line in numbered if line}


@pytest.fixture
def write(tmp_path: Path) -> Any:
    def save(content: str | bytes, name: str) -> Path:
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return save


@pytest.mark.parametrize("name", ["a.jsonl", "a.ndjson", "a.json"])
def test_jsonl_is_uploaded_byte_for_byte(write: Any, name: str) -> None:
    octets = b'\xef\xbb\xbf{"prompt": "a"}\r\n\n{broken\n' + b"x" * 1_000_000
    assert uploaded(write(octets, name)) == octets


def test_prompts_keep_their_line_numbers(write: Any) -> None:
    octets = uploaded(write("\ufefffirst \r\n\n  第三\n", "prompts.txt"))
    assert by_line(octets) == {
        1: {"custom_id": "line-1", "prompt": "first"},
        3: {"custom_id": "line-3", "prompt": "第三"},
    }


def test_rows_stand_at_the_lines_that_they_begin_at(write: Any) -> None:
    path = write('\ufefftext,n\r\n"a ""quoted""\r\nbreak, and a comma",1\r\n\r\nplain,2\r\n', "rows.csv")
    assert by_line(uploaded(path, template="{n}: {text}!")) == {
        2: {"custom_id": "line-2", "prompt": '1: a "quoted"\r\nbreak, and a comma!'},
        5: {"custom_id": "line-5", "prompt": "2: plain!"},
    }


def test_a_column_names_the_rows_and_tabs_part_tsv(write: Any) -> None:
    path = write("first name\tid\nAda\tx-1\n", "rows.TSV")
    told = by_line(uploaded(path, template="Hi {first name}", id_column="id"))
    assert told == {2: {"custom_id": "x-1", "prompt": "Hi Ada"}}


@given(st.lists(st.tuples(st.text(min_size=1), st.text()), min_size=1, max_size=5))
def test_what_csv_writes_comes_back_as_prompts(rows: list[tuple[str, str]]) -> None:
    fields = [tuple(field.replace("\r", "").replace("\0", "") + "." for field in row) for row in rows]
    reading, writing = os.pipe()

    def fill() -> None:
        with os.fdopen(writing, "w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([("a", "b"), *fields])

    feeding = threading.Thread(target=fill)
    feeding.start()
    try:
        source = Source(f"/dev/fd/{reading}", columns=Columns(template="{a}|{b}"))
        assert not source.repeatable
        told = by_line(b"".join(source.chunks()))
    finally:
        feeding.join()
        os.close(reading)
    assert [one["prompt"] for one in told.values()] == [f"{a}|{b}" for a, b in fields]


@pytest.mark.parametrize(
    ("content", "name", "columns", "told"),
    [
        ("", "a.jsonl", {}, "a.jsonl is empty"),
        (" \n\n", "a.txt", {}, "no prompt in it"),
        ("text\n", "a.csv", {"template": "{text}"}, "no row below its header"),
        ("text,n\nx,1\n", "a.csv", {}, "--template 'Classify: {text}'; the columns are 'text', 'n'"),
        ("text,n\nx,1\n", "a.csv", {"template": "{txet}"}, "no column 'txet'; the columns are 'text', 'n'"),
        ("text,n\nx,1\n", "a.csv", {"template": '{"a": {text}}'}, "a single {"),
        ("text,n\nx,1\n", "a.csv", {"template": "same"}, "it names no column"),
        ("a,a\nx,1\n", "a.csv", {"template": "{a}"}, "2 columns are called 'a'"),
        ("text,n\nx,1\n", "a.csv", {"template": "{text}", "id_column": "id"}, "--id-column: there is no column 'id'"),
        ("text,n\nx,1\nx, y,1\n", "a.csv", {"template": "{text}"}, "a.csv:3: the row has 3 fields, the header 2"),
        ('text\n"open\n', "a.csv", {"template": "{text}"}, "a.csv:2: the row that begins here is no CSV"),
        ("text\ncaf\xe9\n".encode("latin-1"), "a.csv", {"template": "{text}"}, "a.csv:2: not UTF-8"),
        ("好\n".encode("gb18030"), "a.txt", {}, "iconv -f GB18030 -t UTF-8 a.txt"),
        (gzip.compress(b"{}", mtime=0), "a.jsonl.gz", {}, "a.jsonl.gz is compressed (gzip): unpack it first"),
        ("x", "a.txt", {"template": "{text}"}, "--template is for .csv and .tsv"),
        ("x", "a.jsonl", {"id_column": "id"}, "--id-column is for .csv and .tsv"),
    ],
)
def test_what_cannot_be_used_is_told_with_its_place(
    write: Any, content: str | bytes, name: str, columns: dict[str, str], told: str
) -> None:
    with pytest.raises(BadFileError) as caught:
        uploaded(write(content, name), **columns)
    assert told in str(caught.value)


def test_folders_and_what_is_not_there_are_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(BadFileError, match="is a folder"):
        Source(str(tmp_path), columns=Columns())
    with pytest.raises(BadFileError, match="No such file"):
        Source(str(tmp_path / "none.jsonl"), columns=Columns())


@pytest.fixture
def _limit_of_fields() -> Iterator[None]:
    """The csv module's is the process's: left as it was."""
    before = csv.field_size_limit()
    yield
    csv.field_size_limit(before)


@pytest.mark.usefixtures("_limit_of_fields")
def test_a_line_that_is_too_long_is_not_read_whole(write: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "LINE_MAX_BYTES", 100)  # 10 MB for each of these would be slow
    with pytest.raises(BadFileError, match=r"a.txt:2: the line is over 100 bytes"):
        uploaded(write("x\n" + "y" * 200, "a.txt"))
    with pytest.raises(BadFileError, match=r"a.csv:2: the row that begins here is no CSV: field larger"):
        uploaded(write('a\n"' + "y\n" * 200 + '"\n', "a.csv"), template="{a}")


@pytest.mark.parametrize(
    ("text", "filled"),
    [("{a}", "1"), ("{ a }{b}", "12"), ("{{{a}}}", "{1}"), ('{{"k": "{b}"}}', '{"k": "2"}'), ("{a}}}", "1}")],
)
def test_braces_name_columns_and_doubled_ones_are_braces(text: str, filled: str) -> None:
    assert Template(text, columns=["a", "b"]).fill(["1", "2"]) == filled


@pytest.mark.parametrize("text", ["{a", "a}", "{a} {", "{}"])
def test_a_brace_that_is_left_open_is_told(text: str) -> None:
    with pytest.raises(TemplateError, match=r"rite (\{\{|\}\})"):
        Template(text, columns=["a"])


def test_memory_stays_flat_however_long_the_file(tmp_path: Path) -> None:
    """64 MB of rows in a process that may have no 64 MB more than it begins with."""
    path = tmp_path / "long.csv"
    with path.open("w") as file:
        file.write("text\n")
        for _ in range(64):
            file.write(f"{'x' * 1_000}\n" * 1_000)
    script = (
        "import resource, sys\n"
        "from tollgate.cli.batches.sources import Columns, Source\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        f"total = sum(map(len, Source({str(path)!r}, columns=Columns(template='{{text}}')).chunks()))\n"
        "print(total, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", script], env=clean_environment(), capture_output=True, text=True, check=True, timeout=60
    )
    total, grown = (int(word) for word in ended.stdout.split())
    unit = 1 if sys.platform == "darwin" else 1024
    assert total > 64_000_000
    assert grown * unit < 10_000_000
