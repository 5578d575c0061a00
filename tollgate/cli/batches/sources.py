"""What a batch is made of: the bytes that are uploaded, read as they are sent, with flat memory.

JSONL goes as it is. Prompts and CSV become lines of JSONL, each at the number that it has in its own file: what the
gateway says of line 17 is true of line 17 there.
"""

from __future__ import annotations

import csv
import json
import stat
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path

from tollgate.cli import prompts
from tollgate.cli.batches import templates
from tollgate.cli.batches.templates import Template, TemplateError
from tollgate.cli.exits import BadFileError
from tollgate.domain.file_kinds import HEAD_BYTES, compression_of

STDIN = "-"
CHUNK_BYTES = 256 * 1024
LINE_MAX_BYTES = 10 * 1024 * 1024
"""More than any gateway takes that is not told to: what is longer need not be read whole. Of a field of a CSV, too."""
BOM = b"\xef\xbb\xbf"
DELIMITERS = {".csv": ",", ".tsv": "\t"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Columns:
    """How rows of a CSV become prompts."""

    template: str | None = None
    id_column: str | None = None
    """Whose values are the custom_ids. None: line-2, line-3, ..."""


class Source:
    """A file, or stdin. Raises BadFileError: at once for what cannot be read, on the way for what is wrong in it."""

    def __init__(self, given: str, *, columns: Columns) -> None:
        self._path = None if given == STDIN else Path(given)
        self._columns = columns
        self.name = "stdin" if self._path is None else self._path.name
        self.size = None if self._path is None else _size(self._path)
        """In bytes. None: not known, and what was read is gone."""
        self.read = 0
        """Bytes of it so far."""

    @property
    def repeatable(self) -> bool:
        return self.size is not None

    def chunks(self) -> Iterator[bytes]:
        """JSONL, from the beginning."""
        self.read = 0
        with self._opened() as file:
            if name := compression_of(file.peek(HEAD_BYTES)):
                raise BadFileError(f"{self.name} is compressed ({name}): unpack it first")
            delimiter = self._delimiter()
            if delimiter is not None:
                yield from _in_chunks(self._from_csv(file, delimiter))
            elif prompts.guess_format(self.name if self._path else "", file.peek(64)) == "text":
                yield from _in_chunks(self._from_text(file))
            else:
                while chunk := file.read(CHUNK_BYTES):
                    self.read += len(chunk)
                    yield chunk

    def _opened(self) -> BufferedReader:
        if self._path is None:
            return open(sys.stdin.fileno(), "rb", closefd=False)
        try:
            return self._path.open("rb")
        except OSError as error:
            raise BadFileError(f"cannot read {self._path}: {error.strerror}") from error

    def _delimiter(self) -> str | None:
        """None: it is no CSV."""
        suffix = "" if self._path is None else self._path.suffix.lower()
        if suffix in DELIMITERS:
            return DELIMITERS[suffix]
        wanted = "--template" if self._columns.template is not None else "--id-column"
        if self._columns == Columns():
            return None
        if suffix:
            raise BadFileError(f"{wanted} is for .csv and .tsv, with names of columns; {self.name} is neither")
        return DELIMITERS[".csv"]

    def _from_text(self, file: BufferedReader) -> Iterator[bytes]:
        asked = False
        for number, line in enumerate(self._lines(file), start=1):
            prompt = line.strip()
            asked |= bool(prompt)
            yield _task(f"line-{number}", prompt) if prompt else b"\n"
        if not asked:
            raise BadFileError(f"{self.name} is empty: there is no prompt in it")

    def _from_csv(self, file: BufferedReader, delimiter: str) -> Iterator[bytes]:
        csv.field_size_limit(LINE_MAX_BYTES)
        rows = csv.reader(self._lines(file), delimiter=delimiter, strict=True)
        header = self._next(rows, at=1)
        if header is None:
            raise BadFileError(f"{self.name} is empty: its first line must name the columns")
        template, id_index = self._of_header(header)
        told, begin = 0, rows.line_num + 1
        while (row := self._next(rows, at=begin)) is not None:
            if row:
                self._require_whole(row, header, at=begin)
                yield b"\n" * (begin - 1 - told)  # of the header, and of the breaks inside fields
                custom_id = f"line-{begin}" if id_index is None else row[id_index]
                yield _task(custom_id, template.fill(row))
                told = begin
            begin = rows.line_num + 1
        if not told:
            raise BadFileError(f"{self.name} has no row below its header")

    def _next(self, rows: Iterator[list[str]], *, at: int) -> list[str] | None:
        """None: there are no more."""
        try:
            return next(rows, None)
        except csv.Error as error:
            raise BadFileError(f"{self.name}:{at}: the row that begins here is no CSV: {error}") from None

    def _of_header(self, header: list[str]) -> tuple[Template, int | None]:
        text, id_column = self._columns.template, self._columns.id_column
        if text is None:
            listed = ", ".join(repr(name) for name in header)
            raise BadFileError(
                f"{self.name} is CSV: say what to ask of a row, for example --template 'Classify: {{{header[0]}}}'; "
                f"the columns are {listed}"
            )
        option = "--template"
        try:
            template = Template(text, columns=header)
            option = "--id-column"
            return template, None if id_column is None else templates.index_of(id_column, header)
        except TemplateError as error:
            raise BadFileError(f"{option}: {error}") from None

    def _require_whole(self, row: list[str], header: list[str], *, at: int) -> None:
        if len(row) != len(header):
            raise BadFileError(
                f"{self.name}:{at}: the row has {len(row)} fields, the header {len(header)}. A field with a delimiter, "
                'a quote or a line break in it stands in "quotes"'
            )

    def _lines(self, file: BufferedReader) -> Iterator[str]:
        number = 0
        while raw := file.readline(LINE_MAX_BYTES + 1):
            number += 1
            self.read += len(raw)
            if len(raw) > LINE_MAX_BYTES:
                raise BadFileError(f"{self.name}:{number}: the line is over {LINE_MAX_BYTES:,} bytes")
            try:
                yield (raw.removeprefix(BOM) if number == 1 else raw).decode("utf-8")
            except UnicodeDecodeError as error:
                raise BadFileError(
                    f"{self.name}:{number}: not UTF-8: byte {error.start + 1} of the line is "
                    f"{raw[error.start]:#04x}. Convert the file, for example: "
                    f"iconv -f GB18030 -t UTF-8 {self.name} > utf8-{self.name}"
                ) from None


def _size(path: Path) -> int | None:
    """None: no file on a disk, but a pipe. Raises BadFileError."""
    try:
        found = path.stat()
    except OSError as error:
        raise BadFileError(f"cannot read {path}: {error.strerror}") from error
    if stat.S_ISDIR(found.st_mode):
        raise BadFileError(f"{path} is a folder")
    if not stat.S_ISREG(found.st_mode):
        return None
    if not found.st_size:
        raise BadFileError(f"{path} is empty")
    return found.st_size


def _task(custom_id: str, prompt: str) -> bytes:
    return json.dumps({"custom_id": custom_id, "prompt": prompt}, ensure_ascii=False).encode("utf-8") + b"\n"


def _in_chunks(lines: Iterable[bytes]) -> Iterator[bytes]:
    held = bytearray()
    for line in lines:
        held += line
        if len(held) >= CHUNK_BYTES:
            yield bytes(held)
            held.clear()
    if held:
        yield bytes(held)
