"""multipart/form-data (RFC 7578) with one file in it, read as it comes: nothing is kept of the file, and little of the
rest. Fields may stand before and after the file."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from tollgate.domain.errors import InvalidRequestError

CONTENT_TYPE = "multipart/form-data"
FILE = "file"
"""The field that is the file, as the SDKs call it."""
MAX_FIELDS = 32
MAX_FIELD_BYTES = 4096
MAX_BOUNDARY_BYTES = 70
"""RFC 2046, 5.1.1."""
PLAIN = ("", "binary", "8bit", "7bit")
"""Of Content-Transfer-Encoding: what comes is what was meant."""


class Form:
    """`fields` grows as it is read; the file is read once.

    Raises InvalidRequestError for what is no such form, and whatever `body` raises."""

    def __init__(self, content_type: str, body: AsyncIterator[bytes]) -> None:
        self.fields: dict[str, str] = {}
        self.filename: str | None = None
        self._body = body
        self._parts = _Parts(self, _boundary_of(content_type))

    async def find_file(self) -> None:
        """Read to the first bytes of the file. Raises InvalidRequestError where there is none."""
        while not self._parts.found:
            if not await self._read_on():
                raise _invalid("the form has no file", field=FILE, allowed=f"a field {FILE!r} with the file's content")

    async def file(self) -> AsyncIterator[bytes]:
        """The file's bytes. Ends after the whole form: then `fields` is complete."""
        await self.find_file()
        more = True
        while more:
            while self._parts.file:
                yield self._parts.file.popleft()
            more = await self._read_on()

    async def _read_on(self) -> bool:
        """False at the form's end."""
        chunk = await anext(self._body, None)
        if chunk is not None:
            self._parts.write(chunk)
        elif not self._parts.ended:
            raise _invalid("the form breaks off")
        return chunk is not None


class _Parts:
    """The parser's callbacks: each part's headers, then its data."""

    def __init__(self, form: Form, boundary: bytes) -> None:
        self.file: deque[bytes] = deque()
        """Of the chunk that was written last."""
        self.found = False
        """The file has begun, and may have ended."""
        self.ended = False
        self._form = form
        self._in_file = False
        self._count = 0
        self._headers: dict[str, str] = {}
        self._name, self._header, self._value, self._field = "", bytearray(), bytearray(), bytearray()
        self._parser = MultipartParser(
            boundary,
            {
                "on_part_begin": self._begin,
                "on_header_field": lambda data, start, end: self._header.extend(data[start:end]),
                "on_header_value": lambda data, start, end: self._value.extend(data[start:end]),
                "on_header_end": self._end_header,
                "on_headers_finished": self._end_headers,
                "on_part_data": self._take,
                "on_part_end": self._end,
                "on_end": self._end_all,
            },
        )

    def write(self, chunk: bytes) -> None:
        try:
            self._parser.write(chunk)
        except FormParserError as error:
            raise _invalid(f"the form cannot be read: {error}") from None

    def _begin(self) -> None:
        self._count += 1
        if self._count > MAX_FIELDS:
            raise _invalid("the form has too many fields", allowed=f"at most {MAX_FIELDS} fields")
        self._headers = {}
        self._field = bytearray()

    def _end_header(self) -> None:
        self._headers[self._header.decode("latin-1").lower()] = self._value.decode("latin-1")
        self._header, self._value = bytearray(), bytearray()

    def _end_headers(self) -> None:
        _, said = parse_options_header(self._headers.get("content-disposition"))
        self._name = _text(said.get(b"name", b""))
        self._in_file = self._name == FILE
        if not self._in_file:
            return
        if self.found:
            raise _invalid("the form has two files", field=FILE, allowed="one file")
        encoding = self._headers.get("content-transfer-encoding", "").strip().lower()
        if encoding not in PLAIN:
            raise _invalid(f"{FILE}: its Content-Transfer-Encoding is {encoding!r}", field=FILE, allowed="binary")
        self.found = True
        self._form.filename = _text(said.get(b"filename", b""))

    def _take(self, data: bytes, start: int, end: int) -> None:
        if self._in_file:
            self.file.append(data[start:end])
            return
        self._field += data[start:end]
        if len(self._field) > MAX_FIELD_BYTES:
            raise _invalid(f"{self._name}: it is too long", field=self._name, allowed=f"{MAX_FIELD_BYTES} bytes")

    def _end(self) -> None:
        if not self._in_file:
            self._form.fields[self._name] = _text(self._field)
        self._in_file = False

    def _end_all(self) -> None:
        self.ended = True


def _boundary_of(content_type: str) -> bytes:
    kind, said = parse_options_header(content_type)
    boundary = said.get(b"boundary", b"")
    if kind != CONTENT_TYPE.encode() or not 1 <= len(boundary) <= MAX_BOUNDARY_BYTES:
        raise _invalid("the body is no form", field="content-type", allowed=f"{CONTENT_TYPE}; boundary=...")
    return boundary


def _text(raw: bytes | bytearray) -> str:
    return raw.decode(errors="replace")


def _invalid(message: str, *, field: str = "body", allowed: str | None = None) -> InvalidRequestError:
    return InvalidRequestError(message, field=field, allowed=allowed or f"{CONTENT_TYPE} with a file", code="1210")
